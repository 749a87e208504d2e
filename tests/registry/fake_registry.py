"""A registry of the tests' own, which does as it is told: lies, breaks off, refuses; and notes what it was asked."""

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class FakeRegistry:
    """``answers[call]``, for a call as ``"GET /v2/app/manifests/1"``, is a list of functions that take the handler and
    return True when they have answered in full; each is used once, and the honest answer comes after them.

    ``requests`` are ``(method, path, headers)`` of all that was asked.
    """

    def __init__(self, context=None):
        self.blobs = {}
        self.manifests = {}
        self.uploads = {}
        self.answers = defaultdict(list)
        self.always = {}
        self.requests = []
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.registry = self
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.scheme = "https" if context else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self):
        return f"{self.scheme}://{self.host}"

    def add_blob(self, data):
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def add_manifest(self, repository, tag, data, media_type):
        for name in (tag, digest_of(data)):
            self.manifests[repository, name] = (data, media_type)
        return digest_of(data)

    def asked(self, method, path):
        """The headers of each request for that."""
        return [headers for verb, where, headers in self.requests if (verb, where) == (method, path)]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that goes, or does not speak TLS, is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def error(self, status, code="", message="", headers=None):
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode() if code else b""
        return self.reply(status, body, headers)

    def hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def body(self):
        """What was sent, as far as it came."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self):
        parts = urlsplit(self.path)
        registry = self.server.registry
        call = f"{self.command} {parts.path}"
        with registry.lock:
            registry.requests.append((self.command, parts.path, dict(self.headers)))
            planned = registry.answers[call].pop(0) if registry.answers[call] else registry.always.get(call)
        if planned is not None and planned(self):
            return
        self.honest(registry, parts.path, parse_qs(parts.query))

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = answer  # noqa: N815

    def honest(self, registry, path, query):
        if path == "/v2/":
            return self.reply(200, b"{}")
        if match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path):
            return self.manifest(registry, *match.groups())
        if match := re.fullmatch(r"/v2/.+/blobs/(sha256:\w+)", path):
            return self.blob(registry, match[1])
        if match := re.fullmatch(r"/v2/(.+)/blobs/uploads/(\w*)", path):
            return self.upload(registry, match[1], match[2], query)
        return self.error(404, "UNSUPPORTED")

    def manifest(self, registry, repository, name):
        if self.command == "PUT":
            data = self.body()
            registry.add_manifest(repository, name, data, self.headers["Content-Type"])
            return self.reply(201, headers={"Docker-Content-Digest": digest_of(data)})
        if (repository, name) not in registry.manifests:
            return self.error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        data, media_type = registry.manifests[repository, name]
        return self.reply(200, data, {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)})

    def blob(self, registry, digest):
        data = registry.blobs.get(digest)
        if data is None:
            return self.error(404, "BLOB_UNKNOWN", "blob unknown")
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            return self.reply(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        return self.reply(200, data)

    def upload(self, registry, repository, session, query):
        place = f"/v2/{repository}/blobs/uploads/"
        if self.command == "POST":
            if "mount" in query and query["mount"][0] in registry.blobs:
                return self.reply(201)
            session = f"s{len(registry.uploads)}"
            registry.uploads[session] = b""
            return self.reply(202, headers={"Location": f"{place}{session}?state=1"})
        held = registry.uploads.get(session)
        if held is None:
            return self.error(404, "BLOB_UPLOAD_UNKNOWN")
        if self.command == "GET":
            return self.reply(204, headers={"Location": f"{place}{session}", "Range": f"0-{max(len(held) - 1, 0)}"})
        data = self.body()
        if self.command == "PATCH":
            start = int(self.headers["Content-Range"].split("-")[0])
            if start != len(held):
                return self.error(416, "RANGE_INVALID")
            registry.uploads[session] = held + data
            return self.reply(202, headers={"Location": f"{place}{session}"})
        if digest_of(held + data) != query["digest"][0]:
            return self.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        registry.add_blob(held + data)
        return self.reply(201)
