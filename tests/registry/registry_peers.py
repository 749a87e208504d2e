"""Debian's docker-registry as a process of the test's own, and the config files that clients log in with."""

import base64
import json
import os
import re
import shutil
import subprocess
import threading

import pytest

PACKAGES = {"docker-registry": "docker-registry", "htpasswd": "apache2-utils", "openssl": "openssl"}
USER, PASSWORD = "tester", "s3cret-word"


def peer(program):
    """The program, or its tests are skipped; in CI they fail."""
    found = shutil.which(program)
    if found is None:
        missing = f"{program} is missing; install it with: sudo apt-get install {PACKAGES.get(program, program)}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


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
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )
        port = None
        for line in self._process.stderr:
            self.log.append(line)
            if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
                port = found[1]
                break
        assert port, "".join(self.log)
        self.host = f"127.0.0.1:{port}"
        self.port = int(port)
        self._reader = threading.Thread(target=lambda: self.log.extend(self._process.stderr))
        self._reader.start()

    def asked(self, pattern):
        """How many requests of its access log match."""
        return sum(bool(re.search(pattern, line)) for line in list(self.log))

    def close(self):
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()


def write_config(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def auths(**by_host):
    """``auths`` of a config file: a ``name:password`` for each host."""
    return {"auths": {host: {"auth": base64.b64encode(pair.encode()).decode()} for host, pair in by_host.items()}}
