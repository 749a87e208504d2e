"""``capsule run``: a container whose main process has our own input and output."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pytest_capsule.cli.attach import attach
from pytest_capsule.cli.build import assignments
from pytest_capsule.cli.registry import TransferProgress
from pytest_capsule.errors import CommandNotFound, UsageError
from pytest_capsule.oci.reference import Reference
from pytest_capsule.spec import ContainerSpec
from pytest_capsule.volumes import is_name

if TYPE_CHECKING:
    import argparse

    from pytest_capsule.cli.invocation import Invocation
    from pytest_capsule.cli.parser import Commands
    from pytest_capsule.runtime.container import Container

_ERROR = 125  # docker run: the container did not start, through no fault of its command


def add_commands(commands: Commands) -> None:
    """Tell the parser of ``run``."""
    parser = commands.add(
        "run",
        run,
        "run a command in a new container",
        error_code=_ERROR,
        usage="capsule run [OPTIONS] IMAGE [COMMAND] [ARG...]",
        description="Run a command in a new container of an image. Its input, output and exit code are the command's "
        "own (125: capsule failed, 126: the command cannot be executed, 127: there is none of that name). When it has "
        "ended, nothing is left of the container.",
        short_help=False,
        words_after="command",
    )
    add = parser.add_argument
    add(
        "image",
        metavar="IMAGE",
        help="a name, an id, rootfs:PATH, oci:PATH[:TAG], docker-archive:FILE[:REF]; built in: hello-world, "
        "capsule/host. Words after it are run instead of its CMD",
    )
    add("-i", "--interactive", action="store_true", help="pass our standard input on")
    add("-t", "--tty", action="store_true", help="give the command a terminal")
    add("-d", "--detach", action="store_true", help="not there: nothing outlives the command that started it")
    add("--rm", action="store_true", help="taken for Docker's sake: a container is always removed")
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set an environment variable")
    add(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="[SOURCE:]TARGET[:ro]",
        help="bind a folder or file; with no SOURCE, a folder of the container's own",
    )
    add("-p", "--publish", action="append", default=[], metavar="[[IP:]PORT:]PORT", help="publish a port on the host")
    add("-w", "--workdir", metavar="PATH", help="where the command starts")
    add("-u", "--user", metavar="USER[:GROUP]", help="who runs the command: names or numbers")
    add("--name", help="the container's name")
    add("-h", "--hostname", metavar="NAME", help="the container's host name")
    add("--entrypoint", metavar="PROGRAM", help='what to run instead of the image\'s ENTRYPOINT; "" for none')
    add(
        "--network",
        "--net",
        choices=("none", "bridge", "host"),
        help="none (also the default: only localhost), bridge (with a way out), or the host's",
    )
    add("-m", "--memory", metavar="BYTES", help="a limit, such as 64m")
    add("--cpus", type=float, metavar="NUMBER", help="a limit, such as 0.5")
    add("--pids-limit", type=int, metavar="NUMBER", help="how many processes there may be")
    add("--read-only", action="store_true", help="let nothing be written but on volumes")
    add("--cap-add", action="append", default=[], metavar="CAPABILITY", help="give a capability, or ALL")
    add("--cap-drop", action="append", default=[], metavar="CAPABILITY", help="take a capability, or ALL")
    add("--privileged", action="store_true", help="all capabilities, nothing hidden")
    add("--tmpfs", action="append", default=[], metavar="PATH[:OPTIONS]", help="mount a filesystem in memory")
    add("--add-host", action="append", default=[], metavar="NAME:ADDRESS", help="a line for /etc/hosts")
    add(
        "--pull",
        choices=("missing", "always", "never"),
        help="when to ask a registry for the image (default: $CAPSULE_PULL, else missing)",
    )
    add("--commit", metavar="REF", help="when the command has ended, keep what it wrote as the image REF")
    add(
        "--change",
        action="append",
        default=[],
        metavar="INSTRUCTION",
        help="for the image of --commit, such as 'CMD [\"run\"]'; repeatable",
    )


def run(call: Invocation) -> int:
    """Create, attach, wait; the exit code is the command's."""
    options = call.options
    _check(options)
    spec = _spec(options)
    with call.engine() as engine:
        image = engine.image(options.image, pull=options.pull, progress=TransferProgress(sys.stderr))
        if options.change:  # what is wrong with one is told before there is work to be lost
            from pytest_capsule.build.configuration import changed

            changed(image.config.config, options.change)
        return _run(engine.create(spec.with_changes(image=image), to_keep=bool(options.commit)), options)


def _run(created: Container, options: argparse.Namespace) -> int:
    with created as container:
        if not container.command:
            raise UsageError("there is nothing to run")
        try:
            code = attach(container, interactive=options.interactive, tty=options.tty)
        except CommandNotFound as error:
            print(f"capsule: {error}", file=sys.stderr)
            return error.exit_code
        if options.commit:
            image = container.commit(options.commit, change=options.change, end=True)
            print(f"capsule: kept as {options.commit}, image {image.short_id}", file=sys.stderr)
    return code


def _check(options: argparse.Namespace) -> None:
    """What can be refused before anything is made."""
    if options.detach:
        raise UsageError(
            "-d is not there: nothing outlives the command that started it, so a container cannot run on alone",
            hint="let the shell do it (capsule run ... &), or use pytest's fixtures, which keep it for a test",
        )
    if options.interactive and options.tty and not os.isatty(0):
        raise UsageError("the input device is not a TTY", hint="leave out -t where the input is no terminal")
    if options.commit:
        Reference.to_give(options.commit)
    elif options.change:
        raise UsageError("--change is for the image of --commit, and there is none", hint="add --commit REF")
    for name, colon, _ in (text.partition(":") for text in options.volume):
        if colon and is_name(name):
            raise UsageError(
                f"-v {name}: nothing keeps a volume of that name when this command has ended",
                hint=f"write ./{name} for a folder",
            )


def _spec(options: argparse.Namespace) -> ContainerSpec:
    return ContainerSpec.of(
        options.image,
        command=options.command or None,
        entrypoint=None if options.entrypoint is None else [word for word in [options.entrypoint] if word],
        env=dict(assignments(options.env)),
        volumes=options.volume,
        ports=options.publish,
        workdir=options.workdir,
        user=options.user,
        name=options.name,
        hostname=options.hostname,
        network=options.network,
        memory=options.memory,
        cpus=options.cpus,
        pids=options.pids_limit,
        read_only=options.read_only,
        cap_add=options.cap_add,
        cap_drop=options.cap_drop,
        privileged=options.privileged,
        tmpfs=options.tmpfs,
        extra_hosts=options.add_host,
    )
