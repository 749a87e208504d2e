"""Debian's docker-registry as a process of the test's own, and the config files that clients log in with."""

import base64
import http.client
import json
import os
import re
import secrets
import subprocess
import threading

from peers import peer

USER, PASSWORD = "tester", "s3cret-word"


class DockerRegistry:
    """A docker-registry of Debian on a port of its own; ``log`` is what it has printed."""

    def __init__(self, folder, *, auth="", tls=""):
        config = folder / "registry.yml"
        config.write_text(
            "version: 0.1\n"
            f"storage:\n  filesystem:\n    rootdirectory: {folder}/data\n  delete:\n    enabled: true\n"
            f"http:\n  addr: 127.0.0.1:0\n{tls}{auth}"
        )
        self.log = []
        self._process = subprocess.Popen(
            [peer("docker-registry"), "serve", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
        port = None
        for line in self._process.stdout:
            self.log.append(line)
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
                port = found[1]
                break
        assert port, "".join(self.log)
        self.host = f"127.0.0.1:{port}"
        self.port = int(port)
        self._new_line = threading.Condition()
        self._reader = threading.Thread(target=self._read_on)
        self._reader.start()

    def _read_on(self):
        for line in self._process.stdout:
            with self._new_line:
                self.log.append(line)
                self._new_line.notify_all()

    def asked(self, pattern):
        """How many requests of its access log match; the log is waited for up to a request that is made now."""
        mark = f"/v2/mark-{secrets.token_hex(8)}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", mark)
        connection.getresponse().read()
        connection.close()
        with self._new_line:
            assert self._new_line.wait_for(lambda: any(mark in line for line in self.log), 60)
            requests = [line for line in self.log if '] "' in line]
        return sum(bool(re.search(pattern, line)) for line in requests)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()


def write_config(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def auths(**by_host):
    """``auths`` of a config file: a ``name:password`` for each host."""
    return {"auths": {host: {"auth": base64.b64encode(pair.encode()).decode()} for host, pair in by_host.items()}}
