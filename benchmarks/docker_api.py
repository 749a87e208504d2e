"""As much of Docker's HTTP API as it takes to run a command in a fresh container: no client program in the way."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


class DockerApi:
    """A client of the daemon that listens on ``path``. Any answer that is not a success is a ``RuntimeError``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, image: str) -> str:
        """A running container of ``image`` that sleeps, with no network; returns its id."""
        body = {"Image": image, "Cmd": ["sleep", "infinity"], "HostConfig": {"NetworkMode": "none"}}
        container: str = self._call("POST", "/containers/create", body)["Id"]
        self._call("POST", f"/containers/{container}/start")
        return container

    def exec(self, container: str, command: list[str]) -> None:
        """Run ``command`` and wait for it; its output is read and dropped."""
        body = {"Cmd": command, "AttachStdout": True, "AttachStderr": True}
        execution = self._call("POST", f"/containers/{container}/exec", body)["Id"]
        self._call("POST", f"/exec/{execution}/start", {"Detach": False, "Tty": False})
        if code := self._call("GET", f"/exec/{execution}/json")["ExitCode"]:
            raise RuntimeError(f"docker: {command} ended with {code}")

    def remove(self, container: str) -> None:
        """Kill and remove the container."""
        self._call("DELETE", f"/containers/{container}?force=true")

    def ping(self) -> None:
        """Return if the daemon answers; ``OSError`` if it does not listen yet."""
        self._call("GET", "/version")

    def _call(self, method: str, path: str, body: object = None) -> Any:
        connection = _UnixConnection(self._path)
        try:
            data = json.dumps(body) if body is not None else None
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"docker: {method} {path}: {answer.status} {content.decode(errors='replace')}")
        return json.loads(content) if answer.getheader("Content-Type", "").startswith("application/json") else None
