"""``capsule build``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pytest_capsule.errors import UsageError
from pytest_capsule.oci.reference import Reference
from pytest_capsule.progress import PlainProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_capsule.cli.invocation import Invocation
    from pytest_capsule.cli.parser import Commands


def add_commands(commands: Commands) -> None:
    """Tell the parser of ``build``."""
    parser = commands.add("build", build, "build an image from a Dockerfile", usage="capsule build [OPTIONS] PATH")
    parser.add_argument("path", metavar="PATH", help="the build context: the folder that COPY takes from")
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="NAME[:TAG]", help="name the image")
    parser.add_argument("-f", "--file", metavar="FILE", help="the Dockerfile (default: PATH/Dockerfile)")
    parser.add_argument("--target", metavar="STAGE", help="the stage to build (default: the last)")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME[=VALUE]", help="a value for an ARG; repeatable"
    )
    parser.add_argument("--no-cache", action="store_true", help="run every step, whatever the cache has")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID[,src=FILE|,env=NAME]",
        help="a secret for RUN --mount=type=secret; repeatable",
    )
    parser.add_argument(
        "--progress",
        choices=("auto", "plain", "quiet"),
        default="auto",
        help="how the build is shown, on stderr (auto is plain); quiet prints the image's id only",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="the same as --progress=quiet")


def build(call: Invocation) -> int:
    """Build, show how it goes on stderr, name the image."""
    options = call.options
    quiet = options.quiet or options.progress == "quiet"
    names = [str(Reference.parse(name)) for name in options.tag]
    with call.engine() as engine:
        image = engine.build(
            options.path,
            dockerfile=os.path.abspath(options.file) if options.file else None,
            tag=names[0] if names else None,
            target=options.target,
            build_args=dict(assignments(options.build_arg)),
            secrets=dict(_secret(text) for text in options.secret),
            no_cache=options.no_cache,
            progress=None if quiet else PlainProgress(_show, name=", ".join(names)),
        )
        for name in names[1:]:
            engine.tag(image, name)
    if quiet:
        print(image.id)
    return 0


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


def _secret(text: str) -> tuple[str, str]:
    """``id=ID,src=FILE``, ``id=ID,env=NAME``, or ``id=ID``: a variable of that name. BuildKit, ``secretprovider``."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    name = fields.pop("id", "")
    source = fields.pop("src", None) or fields.pop("source", None)
    variable = fields.pop("env", None)
    fields.pop("type", None)
    if not name or fields or (source and variable):
        raise UsageError(f"--secret {text}: write it id=ID,src=FILE or id=ID,env=NAME")
    if source:
        try:
            with open(os.path.expanduser(source), encoding="utf-8") as file:
                return name, file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--secret {text}: {source} cannot be read: {error}") from None
    if (variable or name) not in os.environ:
        raise UsageError(f"--secret {text}: there is no environment variable {variable or name}")
    return name, os.environ[variable or name]


def _show(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
