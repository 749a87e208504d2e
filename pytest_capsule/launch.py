"""What a container is started with: an image's config, and the keywords of a spec on top of it, as Docker puts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_capsule._linux import capabilities
from pytest_capsule.errors import UsageError
from pytest_capsule.store.builtin import DEFAULT_PATH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_capsule.oci.config import RunConfig
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.spec import ContainerSpec
    from pytest_capsule.store.image import Image


def command_line(image: Image, spec: ContainerSpec) -> tuple[str, ...]:
    """ENTRYPOINT and CMD with their overrides, as Docker puts them together; empty for no main process."""
    config = image.config.config
    shell = config.shell or ("/bin/sh", "-c")
    if spec.command is not None and not spec.command:
        return ()
    entrypoint, command = config.entrypoint, config.cmd
    if spec.entrypoint is not None:  # Docker: another entrypoint drops the image's command
        entrypoint, command = _words(spec.entrypoint, shell), ()
    if spec.command is not None:
        command = _words(spec.command, shell)
    words = (*entrypoint, *command)
    if not words:
        raise UsageError(
            f"image {image.name} has neither ENTRYPOINT nor CMD",
            hint="give command=[...] to run something, or command=[] for a container that is only there for exec",
        )
    return words


def _words(command: Sequence[str] | str, shell: Sequence[str]) -> tuple[str, ...]:
    return (*shell, command) if isinstance(command, str) else tuple(str(word) for word in command)


def environment(config: RunConfig, spec: ContainerSpec, hostname: str) -> dict[str, str]:
    """The image's variables and those given, on top of what every container has."""
    given = {name: str(value) for name, value in spec.env.items()}
    return {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, **config.env_dict(), **given}


def granted_capabilities(spec: ContainerSpec) -> frozenset[str]:
    """Docker's default ones, with ``cap_add`` and ``cap_drop``; ``UsageError`` for a name that is none."""
    if spec.privileged:
        return frozenset(capabilities.NAMES)
    try:
        return capabilities.granted(spec.cap_add, spec.cap_drop)
    except ValueError as error:
        raise UsageError(str(error), hint="for instance NET_ADMIN, or ALL") from None


def hostname(spec: ContainerSpec, neighbour: Container | None) -> str | None:
    """The host name that was asked for; that of ``neighbour`` where its network is shared."""
    if neighbour is None:
        return spec.hostname
    if spec.hostname is not None:
        raise UsageError("hostname= does not go with the network of another container", hint="it has that one's name")
    return neighbour.spec.hostname
