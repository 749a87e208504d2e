"""``capsule build``."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_capsule.cli.attach import attach
from pytest_capsule.cli.secrets import secret
from pytest_capsule.errors import BuildError, UsageError
from pytest_capsule.oci.reference import Reference
from pytest_capsule.spec import ContainerSpec

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from pytest_capsule.cli.invocation import Invocation
    from pytest_capsule.cli.parser import Commands
    from pytest_capsule.engine import Engine
    from pytest_capsule.progress import Progress
    from pytest_capsule.store.image import Image


_STDIN = "-"
_PROGRESS = ("auto", "plain", "tty", "quiet", "rawjson")


def add_commands(commands: Commands) -> None:
    """Tell the parser of ``build``."""
    parser = commands.add("build", build, "build an image from a Dockerfile", usage="capsule build [OPTIONS] PATH|-")
    parser.add_argument(
        "path",
        metavar="PATH|-",
        help="the build context: the folder that COPY takes from; - is stdin, which has the tar of one, or a "
        "Dockerfile that needs none",
    )
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="NAME[:TAG]", help="name the image")
    parser.add_argument("-f", "--file", metavar="FILE", help="the Dockerfile (default: PATH/Dockerfile); - is stdin")
    parser.add_argument("--target", metavar="STAGE", help="the stage to build (default: the last)")
    parser.add_argument(
        "--build-context",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what stands for the stage or image of that name: a folder, docker-image://REFERENCE or "
        "oci-layout://FOLDER[:TAG]; repeatable",
    )
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME[=VALUE]", help="a value for an ARG; repeatable"
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="run every step, whatever the cache has, its cache mounts begun anew"
    )
    parser.add_argument(
        "--cache-from",
        action="append",
        default=[],
        metavar="type=registry,ref=NAME|type=local,src=DIR",
        help="take steps from a cache that machines share; repeatable",
    )
    parser.add_argument(
        "--cache-to",
        action="append",
        default=[],
        metavar="type=registry,ref=NAME|type=local,dest=DIR[,mode=max]",
        help="write the steps to one, those of all stages with mode=max; repeatable",
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME[=VALUE]", help="a label for the image; repeatable"
    )
    parser.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="what the image is for (default: this machine)")
    parser.add_argument("--pull", action="store_true", help="ask the registry anew for what FROM names")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID[,src=FILE|,env=NAME]",
        help="a secret for RUN --mount=type=secret; repeatable",
    )
    parser.add_argument(
        "--ssh",
        action="append",
        default=[],
        metavar="default|ID[=SOCKET]",
        help="an SSH agent for RUN --mount=type=ssh (default: that of $SSH_AUTH_SOCK); repeatable",
    )
    parser.add_argument(
        "--progress",
        choices=_PROGRESS,
        default=os.environ.get("BUILDKIT_PROGRESS") or "auto",
        help="how the build is shown, on stderr: redrawn in place (tty), line by line (plain), an event a line "
        "(rawjson), or only the image's id (quiet). auto: tty on a terminal, else plain",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="the same as --progress=quiet")
    parser.add_argument(
        "--on-error",
        choices=("stop", "shell", "shell-before"),
        default="stop",
        help="what to do when a command of the build fails: open a shell in what it left, or in what was before it",
    )
    parser.add_argument(
        "--check", action="store_true", help="run BuildKit's build checks instead of building; 1 if they find something"
    )


def build(call: Invocation) -> int:
    """Build, show how it goes on stderr, name the image."""
    options = call.options
    names = [str(Reference.to_give(name)) for name in options.tag]
    with call.engine() as engine, _laid_out(options):
        if options.check:
            return _check(engine, options)
        try:
            image = _build(engine, options, names)
        except BuildError as error:
            if options.on_error == "stop":
                raise
            print(f"capsule: {error}", file=sys.stderr)
            is_after = options.on_error == "shell"
            _open_shell(engine, (error.failed_state if is_after else None) or error.image)
            return 1
        for name in names[1:]:
            engine.tag(image, name)
        if options.quiet or options.progress == "quiet":
            print(image.id)
    return 0


@contextlib.contextmanager
def _laid_out(options: argparse.Namespace) -> Iterator[None]:
    """Have the context and the Dockerfile as files while the block runs, also what comes through stdin.

    Source: docker/cli, ``image/build/context.go``.
    """
    if _STDIN not in (options.path, options.file):
        yield
        return
    if options.path == options.file:
        raise UsageError("context and Dockerfile cannot both come from stdin", hint="put the Dockerfile into the tar")
    if os.isatty(0):
        raise UsageError("there is nothing to read: stdin is a terminal", hint="name a folder, or use a pipe")
    from pytest_capsule.archive.compression import Broken
    from pytest_capsule.archive.unpack import is_archive, unpack
    from pytest_capsule.store import trees

    folder = Path(tempfile.mkdtemp(prefix="capsule-build-"))
    try:
        piped = folder / "Dockerfile"
        with piped.open("w+b") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.seek(0)
            if options.file == _STDIN:
                options.file = str(piped)
            else:
                context = folder / "context"
                context.mkdir()
                options.path = str(context)
                if is_archive(file):
                    root = os.open(context, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        unpack(file, root, owner=lambda member: (os.geteuid(), os.getegid()))
                    except Broken as error:
                        raise UsageError(f"the context from stdin cannot be unpacked: {error}") from None
                    finally:
                        os.close(root)
                    options.file = str(context / options.file) if options.file else None
                else:
                    options.file = str(piped)
        yield
    finally:
        trees.remove(str(folder))


def _build(engine: Engine, options: argparse.Namespace, names: Sequence[str]) -> Image:
    with _progress("quiet" if options.quiet else options.progress, ", ".join(names)) as progress:
        return engine.build(
            options.path,
            dockerfile=_dockerfile(options),
            tag=names[0] if names else None,
            target=options.target,
            build_args=dict(assignments(options.build_arg)),
            secrets=dict(secret(text) for text in options.secret),
            ssh=options.ssh,
            build_contexts=_contexts(options.build_context),
            labels={name: value for name, _, value in (text.partition("=") for text in options.label)},
            platform=options.platform,
            no_cache=options.no_cache,
            pull=options.pull,
            cache_from=options.cache_from,
            cache_to=options.cache_to,
            progress=progress,
        )


def _contexts(given: Sequence[str]) -> dict[str, str]:
    for text in given:
        if not all(text.partition("=")):
            raise UsageError(f"--build-context {text}: it takes NAME=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in given)}


def _open_shell(engine: Engine, reference: str | None) -> None:
    """A shell in an image, as a RUN would be there: its user, folder and variables, and the host's network."""
    image = engine.image(reference or "")
    shell = (image.config.config.shell or ("/bin/sh",))[0]
    print(f"capsule: {shell} in {image.name}; leave it with exit", file=sys.stderr)
    spec = ContainerSpec.of(image, entrypoint=[], command=[shell], network="host")
    with engine.create(spec) as container:
        attach(container, interactive=True, tty=os.isatty(0) and os.isatty(1))


def _dockerfile(options: argparse.Namespace) -> str | None:
    return os.path.abspath(options.file) if options.file else None


def _progress(kind: str, names: str) -> Progress:
    on_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if kind not in _PROGRESS:
        raise UsageError(f"BUILDKIT_PROGRESS={kind}: it is one of {', '.join(_PROGRESS)}")
    if kind == "tty" and not sys.stderr.isatty():
        raise UsageError("--progress=tty: stderr is no terminal", hint="use --progress=plain")
    from pytest_capsule.progress import JsonProgress, LiveProgress, PlainProgress, Progress

    if kind == "quiet":
        return Progress()
    if kind == "rawjson":
        return JsonProgress(_show)
    if kind == "tty" or (kind == "auto" and on_terminal):
        return LiveProgress(_show, _size_of_terminal, name=names, colour="NO_COLOR" not in os.environ)
    return PlainProgress(_show, name=names)


def _size_of_terminal() -> tuple[int, int]:
    columns, rows = os.get_terminal_size(sys.stderr.fileno())
    return columns or 80, rows or 24


def _check(engine: Engine, options: argparse.Namespace) -> int:
    """What ``docker build --check`` prints: each finding with its place; 1 where there is any."""
    result = engine.lint(
        options.path,
        dockerfile=_dockerfile(options),
        target=options.target,
        build_args=dict(assignments(options.build_arg)),
    )
    if result.error is not None:
        print(f"ERROR: {result.error}\n")
    for warning in result.warnings:
        print(f"WARNING: {warning.rule} - {warning.url}\n{warning.message}\n{result.excerpt(warning.line)}\n")
    count = len(result.warnings)
    found = f"{count} warning{'s have' if count > 1 else ' has'} been found!" if count else "no warnings found."
    print(f"Check complete, {found}")
    return 1 if count or result.error is not None else 0


def assignments(texts: Sequence[str]) -> list[tuple[str, str]]:
    """``NAME=VALUE`` texts; one with no value takes that of our own environment, and is left out if there is none."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"{text!r}: write it NAME=VALUE")
        if equals:
            found.append((name, value))
        elif name in os.environ:
            found.append((name, os.environ[name]))
    return found


def _show(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
