"""What is measured: pytest-capsule, its peers, and the floor under all of them.

A subject is set up by a generator function that yields its actions, by workload, and takes everything down again. One
that this machine cannot run raises ``Absent`` with the reason, which the report prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .context import BASE
from .docker_api import DockerApi
from .measure import Action, timed

Actions = dict[str, Action]
TRUE = ["/bin/true"]


class Absent(Exception):
    """The subject cannot be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """What all subjects are given: the same Debian as a directory and as a tar, the contexts, and room of their own."""

    rootfs: Path
    tar: Path
    contexts: Mapping[str, Path]
    scratch: Path

    def room(self, name: str) -> Path:
        """An empty directory for the subject ``name``; it is removed at the end."""
        path = self.scratch / name
        path.mkdir()
        return path


@contextmanager
def capsule(place: Place) -> Iterator[Actions]:
    """This project, in-process through its Engine. Whatever it lacks is an error, never ``Absent``."""
    from pytest_capsule import Engine

    with Engine(cache_dir=place.room("capsule")) as engine:
        image = engine.image(f"rootfs:{place.rootfs}")
        engine.tag(image, BASE)

        def fresh() -> None:
            with engine.run(image, command=[]) as container:
                container.exec(TRUE, check=True)

        def build(context: Path, *words: str) -> Action:
            return timed(lambda: engine.build(context, tag=context.name, no_cache="--no-cache" in words))

        with engine.run(image, command=[]) as standing:
            yield {
                "start": timed(fresh),
                "exec": timed(lambda: standing.exec(TRUE, check=True)),
                **_builds(build, place),
            }


@contextmanager
def limit(place: Place) -> Iterator[Actions]:
    """The bare system calls from C, which ``limit.c`` times itself."""
    program = place.room("limit") / "limit"
    run(_tool("cc", "gcc", "clang"), "-O2", "-o", str(program), str(Path(__file__).with_name("limit.c")))
    pipe = subprocess.PIPE
    with subprocess.Popen([program, place.rootfs], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        assert process.stdin and process.stdout and process.stderr
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr

        def once() -> float:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(b"\n")
            if line := stdout.readline():
                return float(line) / 1000
            raise Absent(stderr.read().decode().strip())

        once()
        yield {"start": once}


@contextmanager
def host(place: Place) -> Iterator[Actions]:
    """The same program with no container at all."""
    yield {"exec": timed(lambda: run(*TRUE))}


@contextmanager
def bubblewrap(place: Place) -> Iterator[Actions]:
    """All namespaces and the same mounts, but a read-only root: this age of it has no overlay."""
    command = [_tool("bwrap"), "--unshare-all", "--die-with-parent", "--ro-bind", str(place.rootfs), "/"]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *TRUE]
    _probe(*command)
    yield {"start": timed(lambda: run(*command))}


@contextmanager
def oci_runtime(name: str, place: Place) -> Iterator[Actions]:
    """``runc`` or ``crun`` on a bundle with the default configuration that the program writes, and a read-only root."""
    runtime = [_tool(name), "--root", str(place.room(name) / "state")]
    fresh = _bundle(runtime[0], place, f"{name}-fresh", TRUE)
    standing = _bundle(runtime[0], place, f"{name}-standing", ["sleep", "infinity"])
    _probe(*runtime, "run", "--bundle", str(fresh), "probe")
    run(*runtime, "run", "--detach", "--bundle", str(standing), "standing", capture=False)
    try:
        yield {
            "start": timed(lambda: run(*runtime, "run", "--bundle", str(fresh), "fresh")),
            "exec": timed(lambda: run(*runtime, "exec", "standing", *TRUE)),
        }
    finally:
        run(*runtime, "delete", "--force", "standing")


def _bundle(program: str, place: Place, name: str, command: Sequence[str]) -> Path:
    bundle = place.room(name)
    run(program, "spec", *(() if os.geteuid() == 0 else ("--rootless",)), cwd=bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=list(command))
    config["root"] = {"path": str(place.rootfs), "readonly": True}
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


@contextmanager
def docker(place: Place) -> Iterator[Actions]:
    """Containers of a daemon of our own, through its API."""
    with dockerd(place, place.room("docker")) as (_, api):

        def fresh() -> None:
            container = api.start(BASE)
            api.exec(container, TRUE)
            api.remove(container)

        standing = api.start(BASE)
        try:
            yield {"start": timed(fresh), "exec": timed(lambda: api.exec(standing, TRUE))}
        finally:
            api.remove(standing)


@contextmanager
def docker_buildkit(place: Place) -> Iterator[Actions]:
    """Builds of a daemon of our own through BuildKit, as ``docker build`` does since 23.0."""
    with dockerd(place, place.room("docker-buildkit")) as (socket, _):
        words = ("build", "--quiet", "--network", "none", str(place.contexts["noop"]))
        # Newer clients want a plugin for it, which may not be there.
        clients = filter(None, (shutil.which("docker", path=folder) for folder in os.get_exec_path()))
        client = next((client for client in clients if _answers(partial(run_docker, socket, client, *words))), None)
        if client is None:
            raise Absent("no docker client on PATH that can build with BuildKit")
        yield _docker_builds(socket, client, place)


@contextmanager
def docker_legacy(place: Place) -> Iterator[Actions]:
    """Builds of a daemon of our own without BuildKit: what ``docker build`` was before 23.0."""
    with dockerd(place, place.room("docker-legacy")) as (socket, _):
        yield _docker_builds(socket, _tool("docker"), place, buildkit="0")


def _docker_builds(socket: Path, client: str, place: Place, buildkit: str = "1") -> Actions:
    def build(context: Path, *words: str) -> Action:
        command = (client, "build", "--quiet", "--network", "none", *words, "--tag", context.name, str(context))
        return timed(lambda: run_docker(socket, *command, buildkit=buildkit))

    return _builds(build, place)


def _builds(build: Callable[..., Action], place: Place) -> Actions:
    cached = {f"{name} cached": build(context) for name, context in place.contexts.items()}
    return cached | {f"{name} cold": build(context, "--no-cache") for name, context in place.contexts.items()}


def run_docker(socket: Path, *command: str, buildkit: str = "1") -> str:
    """Run a docker client against that daemon; returns what it printed."""
    variables = {"DOCKER_HOST": f"unix://{socket}", "DOCKER_CONFIG": str(socket.parent), "DOCKER_BUILDKIT": buildkit}
    return run(*command, env={**os.environ, **variables})


@contextmanager
def dockerd(place: Place, room: Path) -> Iterator[tuple[Path, DockerApi]]:
    """A daemon of our own with the Debian as an image, at a socket in ``room``; ``Absent`` where none can run."""
    if os.geteuid() != 0:
        raise Absent("its daemon needs root")
    socket = room / "docker.sock"
    command = [_tool("dockerd"), "--iptables=false", "--ip6tables=false", "--bridge=none", "--host", f"unix://{socket}"]
    command += ["--data-root", str(room / "data"), "--exec-root", str(room / "exec"), "--pidfile", str(room / "pid")]
    with (
        (room / "log").open("w+") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as daemon,
    ):
        try:
            api = DockerApi(socket)
            deadline = time.monotonic() + 60
            while not _answers(api.ping):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Absent("the daemon does not start: " + _last_line(log.read()))
                time.sleep(0.05)
            run_docker(socket, _tool("docker"), "import", str(place.tar), BASE)
            yield socket, api
        finally:
            daemon.terminate()


@contextmanager
def buildah(place: Place) -> Iterator[Actions]:
    """Working containers and layered builds, with the first isolation that this machine has, its default first."""
    room = place.room("buildah")
    program = [_tool("buildah"), "--storage-driver", "overlay", "--root", str(room / "root")]
    program += ["--runroot", str(room / "run")]
    base = room / "base"
    base.mkdir()
    (base / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    shutil.copy(place.tar, base / "base.tar")
    _probe(*program, "build", "--quiet", "--tag", BASE, str(base))
    isolation = _buildah_isolation(program, place)

    def new() -> str:
        return run(*program, "from", "--pull-never", BASE)

    def fresh() -> None:
        container = new()
        run(*program, "run", *isolation, container, *TRUE)
        run(*program, "rm", container)

    def build(context: Path, *words: str) -> Action:
        command = [*program, "build", "--quiet", "--layers", "--pull-never", *isolation, *words]
        return timed(lambda: run(*command, "--tag", context.name, str(context)))

    standing = new()
    try:
        yield {
            "start": timed(fresh),
            "exec": timed(lambda: run(*program, "run", *isolation, standing, *TRUE)),
            **_builds(build, place),
        }
    finally:
        run(*program, "rm", "--all")


def _buildah_isolation(program: Sequence[str], place: Place) -> list[str]:
    with_oci = ["--isolation", "oci", "--network", "none"]
    choices = [with_oci, [*with_oci, "--runtime", "runc"], ["--isolation", "chroot"]]
    for words in choices:
        command = [*program, "build", "--quiet", "--pull-never", "--no-cache", *words, str(place.contexts["noop"])]
        try:
            run(*command)
        except RuntimeError:
            continue
        return words
    raise Absent("none of its isolations works here")


SUBJECTS: dict[str, Callable[[Place], AbstractContextManager[Actions]]] = {
    "capsule": capsule,
    "limit.c": limit,
    "host": host,
    "bubblewrap": bubblewrap,
    "runc": lambda place: oci_runtime("runc", place),
    "crun": lambda place: oci_runtime("crun", place),
    "docker": docker,
    "docker-buildkit": docker_buildkit,
    "docker-legacy": docker_legacy,
    "buildah": buildah,
}


def run(*command: str, capture: bool = True, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run ``command`` to its end and return what it printed; ``RuntimeError`` with its last line if it fails.

    Without ``capture`` nothing is read: a detached process would keep the pipe open.
    """
    output = subprocess.PIPE if capture else subprocess.DEVNULL
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True, cwd=cwd, env=env, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {_last_line(done.stderr or '')}")
    return (done.stdout or "").strip()


def _probe(*command: str) -> None:
    try:
        run(*command)
    except RuntimeError as error:
        raise Absent(str(error)) from error


def _answers(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except (OSError, RuntimeError):
        return False
    return True


def _tool(*names: str) -> str:
    for name in names:
        if path := shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"):
            return path
    raise Absent("not installed")


def _last_line(text: str) -> str:
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip(" :")), "it said nothing")
    return line if len(line) <= 200 else f"{line[:60]} ... {line[-130:]}"
