"""What the instructions that change no file do to an image's config: in a build, and as ``--change`` of a commit."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import replace
from functools import singledispatch

from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile import parse_trigger
from pytest_capsule.dockerfile.words import Expander
from pytest_capsule.errors import CapsuleError, UsageError
from pytest_capsule.oci.config import Healthcheck, RunConfig

DEFAULT_SHELL = ("/bin/sh", "-c")
# moby, builder/dockerfile/builder.go: validCommitCommands
_CHANGES = (
    ins.Cmd,
    ins.Entrypoint,
    ins.Env,
    ins.Expose,
    ins.Healthcheck,
    ins.Label,
    ins.Onbuild,
    ins.Stopsignal,
    ins.User,
    ins.Volume,
    ins.Workdir,
)


def changed(config: RunConfig, changes: Iterable[str]) -> RunConfig:
    """The config after lines such as ``CMD ["run"]``: Docker's ``--change``, which takes what makes no layer.

    ``UsageError`` for a line that is none of these.
    """
    command_set = False
    for line in changes:
        try:
            instruction = parse_trigger(line)
            if not isinstance(instruction, _CHANGES):
                known = ", ".join(sorted(kind.keyword for kind in _CHANGES))
                raise UsageError(f"change {line!r}: {instruction.keyword} makes a layer", hint=f"it takes {known}")
            instruction = instruction.expand(Expander(config.env_dict()))
        except UsageError:
            raise
        except CapsuleError as error:
            raise UsageError(f"change {line!r}: {error.message}", hint=error.hint) from None
        command = config.cmd
        config = configured(instruction, config)
        if isinstance(instruction, ins.Entrypoint) and command_set:
            config = replace(config, cmd=command)
        command_set = command_set or isinstance(instruction, ins.Cmd)
    return config


def working_directory(before: str, path: str) -> str:
    """What ``WORKDIR path`` makes of the working directory."""
    return posixpath.normpath(posixpath.join("/", before, path)).rstrip("/") or "/"


@singledispatch
def configured(instruction: ins.Instruction, config: RunConfig) -> RunConfig:
    """The config after one instruction, whose variables are expanded already.

    An ENTRYPOINT drops the command, which was the base image's: who has set another before puts it back.
    """
    raise instruction.origin.error(f"{instruction.keyword} is not supported here")


@configured.register
def _(instruction: ins.Env, config: RunConfig) -> RunConfig:
    for pair in instruction.pairs:
        config = config.with_env(pair.name, pair.value)
    return config


@configured.register
def _(instruction: ins.Label, config: RunConfig) -> RunConfig:
    return config.with_labels({pair.name: pair.value for pair in instruction.pairs})


@configured.register
def _(instruction: ins.Cmd, config: RunConfig) -> RunConfig:
    return replace(config, cmd=instruction.argv(config.shell or DEFAULT_SHELL), args_escaped=True)


@configured.register
def _(instruction: ins.Entrypoint, config: RunConfig) -> RunConfig:
    return replace(config, entrypoint=instruction.argv(config.shell or DEFAULT_SHELL), cmd=())


@configured.register
def _(instruction: ins.Expose, config: RunConfig) -> RunConfig:
    return replace(config, exposed_ports=tuple(sorted({*config.exposed_ports, *instruction.exposed()})))


@configured.register
def _(instruction: ins.Volume, config: RunConfig) -> RunConfig:
    return replace(config, volumes=tuple(sorted({*config.volumes, *instruction.paths})))


@configured.register
def _(instruction: ins.User, config: RunConfig) -> RunConfig:
    return replace(config, user=instruction.user)


@configured.register
def _(instruction: ins.Workdir, config: RunConfig) -> RunConfig:
    return replace(config, working_dir=working_directory(config.working_dir, instruction.path))


@configured.register
def _(instruction: ins.Stopsignal, config: RunConfig) -> RunConfig:
    return replace(config, stop_signal=instruction.signal)


@configured.register
def _(instruction: ins.Shell, config: RunConfig) -> RunConfig:
    return replace(config, shell=instruction.words)


@configured.register
def _(instruction: ins.Onbuild, config: RunConfig) -> RunConfig:
    return replace(config, on_build=(*config.on_build, instruction.expression))


@configured.register
def _(instruction: ins.Healthcheck, config: RunConfig) -> RunConfig:
    check = Healthcheck(
        test=instruction.test,
        interval=instruction.interval,
        timeout=instruction.timeout,
        start_period=instruction.start_period,
        start_interval=instruction.start_interval,
        retries=instruction.retries,
    )
    return replace(config, healthcheck=check)
