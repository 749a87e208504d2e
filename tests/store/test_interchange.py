"""Our images in skopeo, umoci, podman and Docker, and theirs here: entry by entry, with their ids and digests.

The image has one of everything that a layer can hold, and a layer above it that takes things away.
"""

import contextlib
import io
import json
import os
import signal
import stat
import subprocess
import tarfile
import tempfile

import pytest
from peers import docker_daemon, peer

from pytest_capsule import Engine

TIMEOUT = 300
DOCKERFILE = """\
FROM scratch
ADD base.tar /
ENV COLOUR=blue WORDS="two words"
RUN rm /gone /dir/old && rm -r /whole /swap /turned && mkdir /whole && echo new > /whole/new && ln -s dir /swap && \
    echo file > /turned && chmod 2755 /dir/setuid && ln /dir/kept /hard && touch -d @1600000000 /dir/kept && \
    mkfifo /pipe && chmod 1777 /sticky
COPY copied /copied/
LABEL a=b
EXPOSE 80/tcp 53/udp
VOLUME /data
WORKDIR /dir
USER 1234:5678
STOPSIGNAL SIGINT
HEALTHCHECK --interval=7s CMD true
ENTRYPOINT ["/bin/busybox", "cat"]
CMD ["/whole/new"]
"""
COMPARED = ("User", "Env", "Cmd", "Entrypoint", "Labels", "ExposedPorts", "Volumes", "WorkingDir", "StopSignal")


def run(*command, **options):
    settings = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | options
    done = subprocess.run([peer(command[0]), *map(str, command[1:])], timeout=TIMEOUT, check=False, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def base():
    """The tar of the lower layer: as root would have made it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:

        def add(name, content=None, **fields):
            info = tarfile.TarInfo(name)
            info.type = tarfile.REGTYPE if content is not None else tarfile.DIRTYPE
            info.mode, info.mtime = 0o644 if content is not None else 0o755, 1_500_000_000
            for field, value in fields.items():
                setattr(info, field, value)
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))

        with open(peer("busybox"), "rb") as program:
            busybox = program.read()
        for folder in ("bin", "dir", "whole", "whole/deep", "swap", "turned", "tmp", "data"):
            add(folder)
        add("bin/busybox", busybox, mode=0o755)
        for applet in ("sh", "rm", "mkdir", "ln", "chmod", "touch", "mkfifo", "cat", "echo", "true"):
            add(f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox", mode=0o777)
        add("dir/setuid", b"program", mode=0o4755)
        add("dir/kept", b"kept", mtime=1_500_000_000.25)
        add("dir/old", b"old")
        add("dir/theirs", b"x", uid=1234, gid=5678, mode=0o640)
        add("dir/marked", b"x", pax_headers={"SCHILY.xattr.user.colour": "blue"})
        add("dir/linked", type=tarfile.LNKTYPE, linkname="dir/kept")
        add("gone", b"gone")
        add("sticky")
        add("whole/deep/file", b"deep")
        add("swap/file", b"x")
        add("turned/file", b"x")
        add("n" * 200, b"a long name")
        add("größe", b"utf-8")
        add("dangling", type=tarfile.SYMTYPE, linkname="/no/where/" + "x" * 200, mode=0o777)
    return file.getvalue()


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with Engine(cache_dir=tmp_path_factory.mktemp("interchange")) as engine:
        yield engine


@pytest.fixture(scope="module")
def image(engine, tmp_path_factory):
    context = tmp_path_factory.mktemp("context")
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "base.tar").write_bytes(base())
    (context / "copied").write_text("copied")
    image = engine.build(context, tag="everything:1")
    assert image.packed()
    return engine.image("everything:1")


@pytest.fixture
def saved(engine, image, tmp_path):
    engine.save("everything:1", tmp_path / "everything.tar")
    return tmp_path / "everything.tar"


@pytest.fixture
def another(tmp_path):
    with Engine(cache_dir=tmp_path / "another") as engine:
        yield engine


def ours(engine, image):
    """Every entry of an image as a container of it sees them: kind and mode, owner, time, size, target."""
    found = {}
    with engine._new_workshop().open_tree(image.tree) as folder:

        def walk(path):
            for name, status in folder.entries(path):
                inner = f"{path}/{name}".lstrip("/")
                target = folder.target(inner) if stat.S_ISLNK(status.st_mode) else ""
                found[inner] = _entry(status.st_mode, status.st_mtime_ns // 10**9, status.st_size, target)
                if stat.S_ISDIR(status.st_mode):
                    walk(inner)

        walk("")
    return found


def _entry(mode, mtime, size, target):
    return mode, mtime, size if stat.S_ISREG(mode) else 0, target


def in_folder(root):
    """The same of a folder on disk."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
            entry = _entry(info.st_mode, info.st_mtime_ns // 10**9, info.st_size, target)
            found[os.path.relpath(path, root)] = entry
    return found


def in_tar(data):
    """The same of a tar such as ``docker export`` writes; and the owners in it."""
    kinds = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.FIFOTYPE: stat.S_IFIFO}
    found, owners = {}, {}
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        for member in archive:
            name = os.path.normpath(member.name)
            if member.islnk():
                found[name] = found[os.path.normpath(member.linkname)]
                continue
            mode = kinds.get(member.type, stat.S_IFREG) | member.mode
            found[name] = _entry(mode, int(member.mtime), member.size, member.linkname)
            owners[name] = (member.uid, member.gid)
    return found, owners


# What a runtime puts into a container's root by itself.
_RUNTIMES = ("dev", "proc", "sys", "etc", "run", ".dockerenv")


def same(ours, theirs, *, but=()):
    """Compare two listings; times of directories that a runtime touches by mounting in them are let be."""

    def kept(entries):
        return {name: entry for name, entry in entries.items() if name.split("/")[0] not in (*_RUNTIMES, *but, ".")}

    assert kept(theirs) == kept(ours)


def test_what_is_in_it(engine, image):
    found = ours(engine, image)
    assert {"gone", "dir/old", "whole/deep", "turned/file"}.isdisjoint(found)
    assert found["whole/new"][2] == 4
    assert found["swap"][3] == "dir"
    assert found["dir/setuid"][0] == stat.S_IFREG | 0o2755
    assert stat.S_ISFIFO(found["pipe"][0])


# -- skopeo and umoci --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["docker-archive", "oci-archive", "oci"])
def test_through_skopeo_and_back(engine, image, saved, another, tmp_path, source, identity):
    if source == "oci-archive" and identity != "root":
        pytest.skip("skopeo unpacks one with the owners that its files have")
    path = saved
    if source == "oci":
        path = tmp_path / "layout"
        engine.save("everything:1", path, format="oci-dir")
    name = "everything:1" if source == "docker-archive" else "1"
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    skopeo = ("skopeo", "--policy", policy, "--tmpdir", tmp_path, "copy")
    if source == "docker-archive":  # to an OCI layout, skopeo would write another config
        run(*skopeo, f"{source}:{path}:{name}", f"docker-archive:{tmp_path / 'theirs.tar'}:back:2")
    else:
        run(*skopeo, f"{source}:{path}:{name}", f"oci:{tmp_path / 'theirs'}:kept")
        arrived = another.image(f"oci:{tmp_path / 'theirs'}:kept")
        assert (arrived.id, arrived.digest) == (image.id, image.digest), "the bytes are ours"
        run(*skopeo, f"oci:{tmp_path / 'theirs'}:kept", f"docker-archive:{tmp_path / 'theirs.tar'}:back:2")
    (back,) = another.load(tmp_path / "theirs.tar")
    assert (back.id, back.tags) == (image.id, ("back:2",))
    same(ours(engine, image), ours(another, back))
    assert back.config == image.packed().config


def test_through_umoci_and_back(engine, image, another, tmp_path, identity):
    engine.save("everything:1", tmp_path / "layout", format="oci-dir")
    rootless = [] if identity == "root" else ["--rootless"]
    run("umoci", "unpack", *rootless, "--image", f"{tmp_path / 'layout'}:1", tmp_path / "bundle")
    same(ours(engine, image), in_folder(tmp_path / "bundle/rootfs"))
    (tmp_path / "bundle/rootfs/added").write_text("by umoci")
    (tmp_path / "bundle/rootfs/copied/copied").unlink()
    for changed in ("added", "copied"):  # umoci rounds the times of what is new
        os.utime(tmp_path / "bundle/rootfs" / changed, (1_600_000_000, 1_600_000_000))
    run("umoci", "repack", "--image", f"{tmp_path / 'layout'}:2", tmp_path / "bundle")
    theirs = another.image(f"oci:{tmp_path / 'layout'}:2")
    assert theirs.diff_ids[:-1] == image.diff_ids
    found = ours(another, theirs)
    assert "copied/copied" not in found
    same(found, in_folder(tmp_path / "bundle/rootfs"))


# -- podman and Docker ------------------------------------------------------------------------------------------------


@pytest.mark.identities("root", "range")
def test_through_podman_and_back(engine, image, saved, another, tmp_path):
    runroot = tempfile.mkdtemp()  # podman refuses a long one
    podman = (
        "podman", "--root", tmp_path / "root", "--runroot", runroot, "--tmpdir", tmp_path / "tmp",
        "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
    )  # fmt: skip
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run"), "TMPDIR": str(tmp_path)}
    (tmp_path / "run").mkdir(mode=0o700)
    try:
        assert "everything:1" in run(*podman, "load", "-i", saved, env=environment)
        inspected = json.loads(run(*podman, "image", "inspect", "everything:1", env=environment))[0]
        assert f"sha256:{inspected['Id']}" == image.id
        assert inspected["RootFS"]["Layers"] == list(image.diff_ids)
        expected = image.config.config.write()
        assert {key: inspected["Config"].get(key) for key in COMPARED} == {key: expected.get(key) for key in COMPARED}
        mounted = run(*podman, "create", "everything:1", env=environment).strip()
        exported, owners = in_tar(run(*podman, "export", mounted, env=environment, text=False))
        same(ours(engine, image), exported, but=("data",))
        assert owners["dir/theirs"] == (1234, 5678)
        run(*podman, "save", "-o", tmp_path / "theirs.tar", "everything:1", env=environment)
        (back,) = another.load(tmp_path / "theirs.tar")
        assert back.id == image.id
        same(ours(engine, image), ours(another, back))
    finally:
        with contextlib.suppress(AssertionError):
            run(*podman, "unshare", "rm", "-rf", tmp_path / "root", runroot, env=environment)
        with contextlib.suppress(FileNotFoundError):  # root's podman has no process that keeps its namespace
            os.kill(int((tmp_path / "tmp/pause.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def docker(tmp_path):
    """The ``docker`` client of a daemon of the test's own, with no network."""
    with docker_daemon(tmp_path, "--storage-driver=vfs") as client:
        yield client


@pytest.mark.identities("root")
def test_through_docker_and_back(engine, image, saved, another, docker, tmp_path):
    assert "Loaded image: everything:1" in run(*docker, "load", "-i", saved)
    inspected = json.loads(run(*docker, "image", "inspect", "everything:1"))[0]
    assert inspected["Id"] == image.id
    assert inspected["RootFS"]["Layers"] == list(image.diff_ids)
    expected = image.config.config.write()
    assert {key: inspected["Config"].get(key) or None for key in COMPARED} == {
        key: expected.get(key) or None for key in COMPARED
    }
    container = run(*docker, "create", "--network", "none", "everything:1").strip()
    exported, owners = in_tar(run(*docker, "export", container, text=False))
    same(ours(engine, image), exported, but=("data",))
    assert owners["dir/theirs"] == (1234, 5678)
    run(*docker, "save", "-o", tmp_path / "theirs.tar", "everything:1")
    (back,) = another.load(tmp_path / "theirs.tar")
    assert (back.id, back.tags) == (image.id, ("everything:1",))
    same(ours(engine, image), ours(another, back))
    run(*docker, "commit", "--change", "ENV ADDED=1", container, "committed:1")
    run(*docker, "save", "-o", tmp_path / "committed.tar", "committed:1")
    (committed,) = another.load(tmp_path / "committed.tar")
    assert committed.config.config.env_dict()["ADDED"] == "1"
    assert committed.diff_ids[: len(image.diff_ids)] == image.diff_ids
    another.import_rootfs(io.BytesIO(run(*docker, "export", container, text=False)), "flat:1")
    same(ours(engine, image), ours(another, another.image("flat:1")), but=("data",))
