"""A small web application: notes that are kept in a file."""

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

NOTES = Path(os.environ["NOTES_FILE"])


class Handler(BaseHTTPRequestHandler):
    """GET /health, GET /notes, POST /notes."""

    def do_GET(self):
        if self.path == "/health":
            self.answer(200, {"status": "ok", "greeting": Path("greeting.txt").read_text().strip()})
        elif self.path == "/notes":
            self.answer(200, json.loads(NOTES.read_text()))
        else:
            self.answer(404, {"error": "no such page"})

    def do_POST(self):
        note = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        notes = [*json.loads(NOTES.read_text()), note]
        NOTES.write_text(json.dumps(notes))
        self.answer(201, notes)

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = HTTPServer(("", int(os.environ["PORT"])), Handler)
    print("notes: ready", flush=True)
    server.serve_forever()
