"""Every error that pytest-capsule raises, in one family.

Each class says in ``str(error)`` what happened, to what, and what to do about it, and carries the same facts as
fields, so that no caller ever has to read them out of the text.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class CapsuleError(Exception):
    """The base of the family. ``hint`` is the sentence that says what to do, or ``None``."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class CapsuleWarning(UserWarning):
    """What works, though not in the way that was asked for: the text says how, and what mends it."""


class UsageError(CapsuleError):
    """A call, marker or option that cannot be meant: a wrong keyword, a wrong type, two that exclude each other."""


class InvalidReference(CapsuleError):
    """A text that is no image reference. ``reference`` is the text."""

    def __init__(self, message: str, *, reference: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reference = reference


class ImageNotFound(CapsuleError):
    """No image answers to ``reference``."""

    def __init__(self, message: str, *, reference: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reference = reference


class RegistryError(CapsuleError):
    """A registry that was not reached, refused, or answered what cannot be right.

    ``registry`` is its host, ``call`` what was asked of it ("GET https://quay.io/v2/app/manifests/1", never with a
    query or a secret), ``status`` the HTTP status of its answer, ``None`` where it gave none or none that counts.
    """

    def __init__(
        self, message: str, *, registry: str, call: str = "", status: int | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.registry = registry
        self.call = call
        self.status = status


class StoreError(CapsuleError):
    """The image store on disk cannot be read or written. ``path`` is where."""

    def __init__(self, message: str, *, path: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path


class ContentMismatch(CapsuleError):
    """A blob is not what it was said to be. ``digest`` is what it should have, ``found`` what it has."""

    def __init__(self, message: str, *, digest: str, found: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.digest = digest
        self.found = found


class DockerfileError(CapsuleError):
    """A Dockerfile that BuildKit would refuse.

    ``path`` is the Dockerfile's name, ``line`` counts from 1 (``None`` where the whole file is meant) and ``text`` is
    that line as it stands in the file.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "Dockerfile",
        line: int | None = None,
        text: str = "",
        hint: str | None = None,
    ) -> None:
        where = path if line is None else f"{path}:{line}"
        shown = f"\n  {line} | {text}" if line is not None and text else ""
        super().__init__(f"{where}: {message}{shown}", hint=hint)
        self.reason = message
        self.path = path
        self.line = line
        self.text = text


class BuildError(CapsuleError):
    """A step of a build that failed: the Dockerfile is right, running it was not.

    ``step`` is the instruction as written, ``path`` and ``line`` its place, ``exit_code`` the command's (``None`` where
    no command ran), ``output`` what it printed. ``image`` is the reference of the last good image, which can be run,
    and ``failed_state`` that of an image as the failed command left it, ``None`` where it has written nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str,
        path: str,
        line: int,
        exit_code: int | None = None,
        output: str = "",
        image: str | None = None,
        failed_state: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.path = path
        self.line = line
        self.exit_code = exit_code
        self.output = output
        self.image = image
        self.failed_state = failed_state


ASK_THE_CHECK = "capsule check tells what is missing here, and how to mend it"
ALLOW_NAMESPACES = (
    "run as root; inside Docker, with --security-opt seccomp=unconfined --security-opt systempaths=unconfined,"
    " or with --privileged"
)


class UnsupportedHost(CapsuleError):
    """This host cannot do what a container needs. ``syscall`` failed with ``errno``; ``hint`` is the mend."""

    def __init__(self, message: str, *, syscall: str = "", errno: int = 0, hint: str | None = None) -> None:
        cause = f" ({syscall}: {os.strerror(errno)})" if syscall and errno else ""
        super().__init__(f"{message}{cause}", hint=hint)
        self.reason = message
        self.syscall = syscall
        self.errno = errno


class ContainerError(CapsuleError):
    """A container that could not be started or does not do what was asked. ``container`` is its name."""

    def __init__(self, message: str, *, container: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.container = container


class CommandNotFound(ContainerError):
    """The image has no such program, or it cannot be run. ``exit_code`` is Docker's 127 or 126."""

    def __init__(
        self, message: str, *, command: str, exit_code: int = 127, container: str = "", hint: str | None = None
    ) -> None:
        super().__init__(message, container=container, hint=hint)
        self.command = command
        self.exit_code = exit_code


class ExecError(ContainerError):
    """A command in a container ended with another code than 0 and ``check=True`` asked for 0."""

    def __init__(
        self, message: str, *, command: Sequence[str], exit_code: int, stdout: str | bytes, stderr: str | bytes
    ) -> None:
        super().__init__(message)
        self.command = tuple(command)
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class ExecTimeout(ContainerError):
    """A command did not end in time and was killed. ``timeout`` is in seconds; the outputs are what came until then."""

    def __init__(
        self, message: str, *, command: Sequence[str], timeout: float, stdout: str | bytes, stderr: str | bytes
    ) -> None:
        super().__init__(message)
        self.command = tuple(command)
        self.timeout = timeout
        self.stdout = stdout
        self.stderr = stderr


class NotReady(ContainerError):
    """A container did not get to where something waited for it. ``logs`` are its last lines; ``message`` is without."""

    def __init__(self, message: str, *, container: str, logs: str) -> None:
        super().__init__(message, container=container)
        self.logs = logs

    def __str__(self) -> str:
        lines = "".join(f"\n    {line}" for line in self.logs.splitlines())
        return f"{self.message}\n  last log lines:{lines}" if lines else f"{self.message}\n  the log is empty"


class WaitTimeout(NotReady):
    """A wait strategy was not satisfied in ``timeout`` seconds. ``seen`` says what was seen last."""

    def __init__(self, message: str, *, container: str, timeout: float, seen: str, logs: str) -> None:
        super().__init__(message, container=container, logs=logs)
        self.timeout = timeout
        self.seen = seen


class ContainerExited(NotReady):
    """A container died while something waited for it. ``exit_code`` is its main process's."""

    def __init__(self, message: str, *, container: str, exit_code: int, logs: str) -> None:
        super().__init__(message, container=container, logs=logs)
        self.exit_code = exit_code


class MalformedImage(CapsuleError):
    """A part of an image that does not follow its specification.

    ``document`` says which part ("image config", "manifest", "index", "digest"), ``field`` the place in it as JSON
    writes it ("config.Env[2]"; empty where the whole is meant).
    """

    def __init__(self, message: str, *, document: str, field: str = "", hint: str | None = None) -> None:
        where = f"{document}, {field}" if field else document
        super().__init__(f"{where}: {message}", hint=hint)
        self.reason = message
        self.document = document
        self.field = field
