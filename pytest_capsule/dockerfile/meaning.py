"""From nodes of the tree to instructions: which arguments and flags each takes, and which it refuses.

Source: ``parse.go`` in BuildKit's ``frontend/dockerfile/instructions``; the messages are BuildKit's, the hints ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from pytest_capsule.dockerfile import instructions as ins
from pytest_capsule.dockerfile.flags import Flags, parse_flags
from pytest_capsule.dockerfile.heredoc import Heredoc, heredoc_mark
from pytest_capsule.dockerfile.mounts import mount_source, parse_device
from pytest_capsule.dockerfile.scalars import parse_duration, parse_int32
from pytest_capsule.dockerfile.text import SPACE, did_you_mean, quote
from pytest_capsule.dockerfile.words import process_word
from pytest_capsule.errors import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_capsule.dockerfile.parser import Node

_STAGE_NAME: Final = re.compile(r"[a-z][a-z0-9_.-]*")
_ONBUILD: Final = re.compile(r"[\t\n\f\r ]*ONBUILD[\t\n\f\r ]*", re.IGNORECASE | re.ASCII)
_SHORTEST_INTERVAL: Final = 1_000_000  # a millisecond, as in Docker


def to_instruction(node: Node, escape: str) -> ins.Instruction:
    """Give ``node`` its meaning; raise ``DockerfileError`` with its place for all that BuildKit refuses."""
    rule = _RULES.get(node.keyword)
    with node.origin.placing():
        if rule is None:
            hint = did_you_mean(node.name, [name.upper() for name in _RULES])
            raise DockerfileError(f"unknown instruction: {node.name}", hint=hint)
        return rule(node, escape)


def _from(node: Node, escape: str) -> ins.From:
    arguments = node.arguments
    alias = None
    if len(arguments) == 3 and arguments[1].casefold() == "as":
        alias = arguments[2].lower()
        if not _STAGE_NAME.fullmatch(alias):
            raise DockerfileError(
                f"invalid name for build stage: {quote(arguments[2])}, "
                "name can't start with a number or contain symbols"
            )
    elif len(arguments) != 1:
        raise DockerfileError("FROM requires either one or three arguments", hint="FROM image, or FROM image AS name")
    platform = _flags(node, texts=("platform",)).texts.get("platform", "")
    comment = _doc_comment(node, alias or "")
    return ins.From(origin=node.origin, base=arguments[0], alias=alias, platform=platform, comment=comment)


def _arg(node: Node, escape: str) -> ins.Arg:
    # BuildKit does not look at the flags of ARG and STOPSIGNAL, so ours are not refused either.
    if not node.arguments:
        raise _too_few(node)
    declarations = []
    for argument in node.arguments:
        name, equals, default = argument.partition("=")
        if not name:
            raise DockerfileError("ARG names can not be blank")
        declarations.append(ins.Declaration(name, default if equals else None, _doc_comment(node, name)))
    return ins.Arg(origin=node.origin, declarations=tuple(declarations))


def _env(node: Node, escape: str) -> ins.Env:
    return ins.Env(origin=node.origin, pairs=_pairs(node))


def _label(node: Node, escape: str) -> ins.Label:
    return ins.Label(origin=node.origin, pairs=_pairs(node))


def _run(node: Node, escape: str) -> ins.Run:
    flags = _flags(node, texts=("network", "security"), lists=("mount", "device"))
    mounts = tuple(flags.lists.get("mount", ()))
    network = flags.texts.get("network", "default")
    if network not in ("default", "none", "host"):
        raise DockerfileError(f"invalid network mode {quote(network)}", hint="one of default, none, host")
    security = flags.texts.get("security", "sandbox")
    if security not in ("sandbox", "insecure"):
        raise DockerfileError(f"security {quote(security)} is not valid", hint="one of sandbox, insecure")
    if node.heredocs and len(node.arguments) != 1:
        raise DockerfileError("parsing produced an invalid run command", hint="the heredoc stands in a flag")
    return ins.Run(
        origin=node.origin,
        words=node.arguments,
        is_json=node.is_json,
        heredocs=node.heredocs,
        mount_flags=mounts,
        mount_sources=tuple(map(mount_source, mounts)),
        devices=tuple(map(parse_device, flags.lists.get("device", ()))),
        network=network,
        security=security,
    )


def _cmd(node: Node, escape: str) -> ins.Cmd:
    _flags(node)
    return ins.Cmd(origin=node.origin, words=node.arguments, is_json=node.is_json)


def _entrypoint(node: Node, escape: str) -> ins.Entrypoint:
    _flags(node)
    return ins.Entrypoint(origin=node.origin, words=node.arguments, is_json=node.is_json)


def _copy(node: Node, escape: str) -> ins.Copy:
    flags = _transfer_flags(node, texts=("chown", "from", "chmod"), switches=("link", "parents"))
    from_ = flags.texts.get("from", "")
    # The stages that depend on each other must be known before any variable is.
    if from_ and process_word(from_, {}, escape) != from_:
        raise DockerfileError(
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope "
            "as a workaround"
        )
    return ins.Copy(
        **_transfer(node, flags),
        from_=from_,
        parents=flags.switches.get("parents", False),
    )


def _add(node: Node, escape: str) -> ins.Add:
    flags = _transfer_flags(node, texts=("chown", "chmod", "checksum"), switches=("link", "keep-git-dir", "unpack"))
    return ins.Add(
        **_transfer(node, flags),
        checksum=flags.texts.get("checksum", ""),
        keep_git_dir=flags.switches.get("keep-git-dir"),
        unpack=flags.switches.get("unpack"),
    )


def _transfer_flags(node: Node, *, texts: tuple[str, ...], switches: tuple[str, ...]) -> Flags:
    if len(node.arguments) < 2:
        raise DockerfileError(
            f"{node.keyword.upper()} requires at least two arguments, but only one was provided. "
            "Destination could not be determined"
        )
    return _flags(node, texts=texts, lists=("exclude",), switches=switches)


def _transfer(node: Node, flags: Flags) -> dict[str, Any]:
    *sources, dest = node.arguments
    if heredoc_mark(dest):
        raise DockerfileError(f"{node.keyword.upper()} cannot accept a heredoc as a destination")
    opened = {heredoc.name: heredoc for heredoc in node.heredocs}
    marks = {source: mark for source in sources if (mark := heredoc_mark(source))}
    return {
        "origin": node.origin,
        "sources": tuple(source for source in sources if source not in marks),
        "dest": dest,
        "files": tuple(_inline_file(marks[source], opened) for source in sources if source in marks),
        "chown": flags.texts.get("chown", ""),
        "chmod": flags.texts.get("chmod", ""),
        "link": flags.switches.get("link", False),
        "exclude": tuple(flags.lists.get("exclude", ())),
    }


def _inline_file(mark: Heredoc, opened: dict[str, Heredoc]) -> ins.InlineFile:
    # The JSON form opens no heredoc, yet BuildKit takes "<<EOF" in it for an empty one.
    filled = opened.get(mark.name)
    return ins.InlineFile(mark.name, filled.body if filled else "", mark.expand)


def _expose(node: Node, escape: str) -> ins.Expose:
    if not node.arguments:
        raise _too_few(node)
    _flags(node)
    return ins.Expose(origin=node.origin, ports=tuple(sorted(node.arguments)))


def _volume(node: Node, escape: str) -> ins.Volume:
    if not node.arguments:
        raise _too_few(node)
    _flags(node)
    paths = tuple(path.strip(SPACE) for path in node.arguments)
    if "" in paths:
        raise DockerfileError("VOLUME specified can not be an empty string")
    return ins.Volume(origin=node.origin, paths=paths)


def _workdir(node: Node, escape: str) -> ins.Workdir:
    return ins.Workdir(origin=node.origin, path=_only_argument(node))


def _user(node: Node, escape: str) -> ins.User:
    return ins.User(origin=node.origin, user=_only_argument(node))


def _maintainer(node: Node, escape: str) -> ins.Maintainer:
    return ins.Maintainer(origin=node.origin, name=_only_argument(node))


def _stopsignal(node: Node, escape: str) -> ins.Stopsignal:
    return ins.Stopsignal(origin=node.origin, signal=_only_argument(node, check_flags=False))


def _onbuild(node: Node, escape: str) -> ins.Onbuild:
    if node.child is None:
        raise _too_few(node)
    _flags(node)
    trigger = node.child.name.upper()
    if trigger == "ONBUILD":
        raise DockerfileError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise DockerfileError(f"{trigger} isn't allowed as an ONBUILD trigger")
    name = _ONBUILD.match(node.original)
    heredocs = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in node.heredocs)
    return ins.Onbuild(origin=node.origin, expression=node.original[name.end() if name else 0 :] + heredocs)


def _healthcheck(node: Node, escape: str) -> ins.Healthcheck:
    if not node.arguments:
        raise _too_few(node)
    kind, *command = node.arguments
    kind = kind.upper()
    if kind == "NONE":
        if command:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return ins.Healthcheck(origin=node.origin, test=("NONE",))
    times = ("interval", "timeout", "start-period", "start-interval")
    flags = _flags(node, texts=(*times, "retries"))
    if kind != "CMD":
        raise DockerfileError(f"Unknown type {quote(kind)} in HEALTHCHECK (try CMD)")
    if not command:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    interval, timeout, start_period, start_interval = (_interval(name, flags.texts.get(name, "")) for name in times)
    return ins.Healthcheck(
        origin=node.origin,
        test=("CMD" if node.is_json else "CMD-SHELL", *command),
        interval=interval,
        timeout=timeout,
        start_period=start_period,
        start_interval=start_interval,
        retries=_retries(flags.texts.get("retries", "")),
    )


def _interval(name: str, text: str) -> int:
    time = parse_duration(text) if text else 0
    if time and time < _SHORTEST_INTERVAL:
        raise DockerfileError(f"Interval {quote(name)} cannot be less than 1ms")
    return time


def _retries(text: str) -> int:
    retries = parse_int32(text) if text else 0
    if retries < 0:
        raise DockerfileError(f"--retries cannot be negative ({retries})")
    return retries


def _shell(node: Node, escape: str) -> ins.Shell:
    _flags(node)
    if not node.arguments:
        raise _too_few(node)
    if not node.is_json:
        hint = 'as in SHELL ["/bin/bash", "-c"], with double quotes and each backslash doubled'
        raise DockerfileError("SHELL requires the arguments to be in JSON form", hint=hint)
    return ins.Shell(origin=node.origin, words=node.arguments)


def _pairs(node: Node) -> tuple[ins.Pair, ...]:
    _flags(node)
    if not node.arguments:
        raise _too_few(node)
    each = iter(node.arguments)
    pairs = tuple(ins.Pair(name, value, is_legacy=not sign) for name, value, sign in zip(each, each, each, strict=True))
    if not all(pair.name for pair in pairs):
        raise DockerfileError(f"{node.keyword.upper()} names can not be blank")
    return pairs


def _only_argument(node: Node, *, check_flags: bool = True) -> str:
    if len(node.arguments) != 1:
        raise DockerfileError(f"{node.keyword.upper()} requires exactly one argument")
    if check_flags:
        _flags(node)
    return node.arguments[0]


def _flags(
    node: Node, *, texts: tuple[str, ...] = (), lists: tuple[str, ...] = (), switches: tuple[str, ...] = ()
) -> Flags:
    return parse_flags(node.flags, texts=texts, lists=lists, switches=switches)


def _too_few(node: Node) -> DockerfileError:
    return DockerfileError(f"{node.keyword.upper()} requires at least one argument")


def _doc_comment(node: Node, name: str) -> str:
    """What the comment above says about ``name``: the rest of the first line that begins with it."""
    start = f"{name} "
    return next((line.removeprefix(start) for line in node.comments if name and line.startswith(start)), "")


_RULES: Final[dict[str, Callable[[Node, str], ins.Instruction]]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _env,
    "expose": _expose,
    "from": _from,
    "healthcheck": _healthcheck,
    "label": _label,
    "maintainer": _maintainer,
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": _stopsignal,
    "user": _user,
    "volume": _volume,
    "workdir": _workdir,
}
