"""``capsule load``, ``save`` and ``import``: images in files and pipes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pytest_capsule.errors import UsageError
from pytest_capsule.images import DOCKER_FORMAT, FOLDER_FORMAT

if TYPE_CHECKING:
    from pytest_capsule.archives import Source
    from pytest_capsule.cli.invocation import Invocation
    from pytest_capsule.cli.parser import Commands

_PIPE = "-"


def add_commands(commands: Commands) -> None:
    """Tell the parser of them."""
    parser = commands.add(
        "load",
        load,
        "bring in images from an archive",
        usage="capsule load [OPTIONS]",
        description="Bring in the images of an archive of docker save, podman save or capsule save, or of an OCI "
        "layout (a tar or a folder), with their names. It may be compressed.",
    )
    parser.add_argument("-i", "--input", metavar="FILE", default=_PIPE, help="read from FILE; - is stdin, the default")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing")
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="which of an image for several platforms to bring in (default: that for this machine)",
    )

    parser = commands.add(
        "save",
        save,
        "write images to an archive",
        usage="capsule save [-o FILE] IMAGE [IMAGE...]",
        description="Write images to a tar that docker load, podman load, skopeo and capsule load read.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("-o", "--output", metavar="FILE", default=_PIPE, help="write to FILE; - is stdout, the default")
    parser.add_argument(
        "--format",
        choices=(DOCKER_FORMAT, FOLDER_FORMAT),
        default=DOCKER_FORMAT,
        help=f"{DOCKER_FORMAT}: a tar for docker load, and an OCI layout too; {FOLDER_FORMAT}: a layout as a folder",
    )

    parser = commands.add(
        "import",
        import_rootfs,
        "make an image of a root filesystem",
        usage="capsule import [OPTIONS] FILE|FOLDER|- [REPOSITORY[:TAG]]",
        description="Make an image of a root filesystem: the tar of one, which may be compressed, or a folder.",
    )
    parser.add_argument("source", metavar="FILE|FOLDER|-")
    parser.add_argument("reference", nargs="?", metavar="REPOSITORY[:TAG]", help="name the image")
    parser.add_argument(
        "-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="such as 'CMD [\"run\"]'; repeatable"
    )
    parser.add_argument("-m", "--message", default="", metavar="TEXT", help="what the image's history says")


def load(call: Invocation) -> int:
    """Load, and say what."""
    options = call.options
    with call.engine() as engine:
        found = [image.settled() for image in engine.load(_input(options.input), platform=options.platform)]
    if not options.quiet:
        for image in found:
            for name in image.tags:
                print(f"Loaded image: {name}")
            if not image.tags:
                print(f"Loaded image ID: {image.id}")
    return 0


def save(call: Invocation) -> int:
    """Save; what is this machine's own and not in the archive is said."""
    options = call.options
    target: Source = options.output
    if options.output == _PIPE:
        if options.format == FOLDER_FORMAT:
            raise UsageError(f"--format {FOLDER_FORMAT} writes a folder", hint="name it with -o FOLDER")
        if sys.stdout.isatty():
            raise UsageError(
                "an archive is nothing for a terminal", hint="write it to a file with -o FILE, or to a pipe"
            )
        target = sys.stdout.buffer
    with call.engine() as engine:
        images = [engine.image(name, pull="never") for name in options.images]
        engine.save(options.images, target, format=options.format)
    for name, image in zip(options.images, images, strict=True):
        if image.host_directories:
            shown = " ".join(image.host_directories)
            print(f"capsule: {name} shows {shown} of this machine, which the archive does not have", file=sys.stderr)
    return 0


def import_rootfs(call: Invocation) -> int:
    """Import, and print the image's id."""
    options = call.options
    with call.engine() as engine:
        image = engine.import_rootfs(
            _input(options.source), options.reference, changes=options.change, message=options.message
        )
        print(image.id)
    return 0


def _input(name: str) -> Source:
    if name != _PIPE:
        return name
    if os.isatty(0):
        raise UsageError("there is nothing to read: stdin is a terminal", hint="name a file, or send it through a pipe")
    return sys.stdin.buffer
