"""Two runs of pytest at once, with the same names, addresses and ports inside: they do not meet."""

import subprocess
import sys

SUITE = """
import socket, time
import pytest
from pathlib import Path
from pytest_capsule import wait

SERVER = (
    "import http.server, sys\\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\\n"
    "    def do_GET(self):\\n"
    "        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[1].encode())\\n"
    "    def log_message(self, *words): pass\\n"
    "http.server.HTTPServer(('', 8000), Handler).serve_forever()\\n"
)
ME, OTHER = MARKS
ASK = "import urllib.request as u; print(u.urlopen('http://db:8000', timeout=60).read().decode())"


def meet(point):
    Path(ME + point).touch()
    end = time.monotonic() + 120
    while not Path(OTHER + point).exists():
        assert time.monotonic() < end, "the other run never came"
        time.sleep(0.01)


@pytest.mark.container("capsule/host", name="db", hostname="db", command=["python3", "-c", SERVER, ME],
                       wait=wait.port(8000), timeout=120, volumes=["data:/data"])
@pytest.mark.container("capsule/host", name="app", command=[], volumes=["data:/data"])
def test_mine(containers):
    meet("up")
    for _ in range(5):
        assert containers["app"].exec(["python3", "-c", ASK], check=True).stdout.strip() == ME
    containers["db"].write_text("/data/" + ME, "")
    assert containers["app"].listdir("/data") == [ME]
    meet("asked")
"""


def test_fixed_names_at_once(pytester):
    runs = []
    for marks in (("one", "other"), ("other", "one")):
        suite = pytester.makepyfile(**{f"test_{marks[0]}": SUITE.replace("MARKS", repr(marks))})
        words = [sys.executable, "-m", "pytest", "-q", str(suite), "-p", "no:cacheprovider"]
        runs.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for run in runs:
        said = run.communicate(timeout=300)[0]
        assert run.returncode == 0, said
        assert "1 passed" in said
