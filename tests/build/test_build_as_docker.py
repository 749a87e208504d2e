"""COPY, ADD and the image config beside Docker's builders and buildah, file by file, field by field.

The peers are dockerd 20.10 or newer, built-in frontend, with no network, and buildah. Where they differ from each
other, BuildKit is what counts, and ``CLASSIC_DIFFERS`` and ``BUILDAH_DIFFERS`` say in which cases.
"""

import functools
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile

import pytest
from peers import docker_daemon, peer, without

from pytest_capsule import Engine

pytestmark = pytest.mark.identities("root")

DEADLINE = 300  # seconds
# The tree that every case begins on: what there is to be merged with, followed and replaced.
CAPABILITY = "\x01\0\0\x02\0\x04\0\0" + "\0" * 12  # cap_net_bind_service=ep
BASE = {
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n",
    "etc/group": b"root:x:0:\nuser:x:1001:\nstaff:x:50:\n",
    "dir/": (0o750, 7, 8),
    "dir/old": b"old",
    "dir/sub/": (0o700, 7, 8),
    "dir/sub/file": b"old",
    "to_dir": "dir",
    "to_file": "dir/old",
    "to_root": "/dir",
    "dangling": "nowhere/file",
    "out": "../../../dir",
    "file": b"a file",
    "capable": (b"program", 0, 0, {"security.capability": CAPABILITY, "user.colour": "blue"}),
    "loop": "loop",
}
BEGINNING = "FROM scratch\nADD base.tar /\nENV IN_BASE=1\nCMD of the base\n"
CASES = {
    "file to a name": "COPY top.txt /new",
    "file to a folder": "COPY top.txt /new/",
    "file to an existing folder": "COPY top.txt /dir",
    "file to an existing folder with a slash": "COPY top.txt /dir/",
    "file over a file": "COPY top.txt /dir/old",
    "file through a link to a folder": "COPY top.txt /to_dir/",
    "file over a link to a folder": "COPY top.txt /to_dir",
    "file over a link to a file": "COPY top.txt /to_file",
    "file through an absolute link": "COPY top.txt /to_root/new",
    "file over a dangling link": "COPY top.txt /dangling",
    "file through a link that leads out": "COPY top.txt /out/new",
    "file to the working directory": "WORKDIR /dir\nCOPY top.txt .",
    "file to a relative path": "WORKDIR /dir\nCOPY top.txt deep/er/",
    "file to a path with dots": "COPY top.txt /dir/../x/./y",
    "folder to a new one": "COPY tree /new",
    "folder to a new one with slashes": "COPY tree/ /new/",
    "folder into an existing one": "COPY tree /dir",
    "folder through a link": "COPY tree /to_dir/",
    "folder over a link to a folder": "COPY tree /to_dir",
    "folder to the root": "COPY tree /",
    "the whole context": "COPY . /all/",
    "two folders": "COPY tree other /both/",
    "several files": "COPY top.txt other/a /both/",
    "several files to a name": "COPY top.txt other/a /last",
    "two folders to a name": "COPY tree other /both",
    "wildcard of files": "COPY other/* /w/",
    "wildcard of folders": "COPY t* /w/",
    "wildcard in the middle": "COPY tree/*/deep /w/",
    "question mark and set": "COPY other/[ab] other/? /w/",
    "name that looks like a wildcard": "COPY other/arr[[]0] /w/",
    "link to a file": "COPY link /new",
    "link to a folder": "COPY linkdir /new",
    "link inside a folder": "COPY links /new",
    "link through a folder": "COPY linkdir/sub/deep /new",
    "hard links": "COPY hard /new",
    "modes": "COPY modes /new",
    "empty folder": "COPY empty /new",
    "special characters": 'COPY ["with space/a b", "größe", "/new/"]',
    "owner by number": "COPY --chown=5:6 tree /dir",
    "owner by one number": "COPY --chown=5 tree /new/deep",
    "owner by name": "COPY --chown=user tree /new",
    "owner by names": "COPY --chown=user:staff top.txt /new/deep/",
    "owner that nobody is": "COPY --chown=nobody:staff top.txt /new",
    "group that is none": "COPY --chown=user:none top.txt /new",
    "socket": "COPY special /new",
    "mode": "COPY --chmod=711 tree /dir",
    "mode of a file": "COPY --chmod=0600 top.txt /dir/",
    "later over earlier": "COPY tree /new\nCOPY other /new",
    "file over a folder of before": "COPY tree/sub /new/sub\nCOPY top.txt /new/sub/deep2",
    "from a stage": "FROM scratch AS s\nCOPY tree /t\nFROM base\nCOPY --from=s /t /new",
    "from a stage through links": "FROM base AS s\nFROM base\nCOPY --from=s /to_dir/ /new",
    "from a stage a link": "FROM base AS s\nFROM base\nCOPY --from=s /to_file /new",
    "from a stage with owners": "FROM base AS s\nFROM base\nCOPY --from=s /dir /new",
    "from a stage hard links": "FROM base AS s\nCOPY hard /hard\nFROM base\nCOPY --from=s /hard /new",
    "from a stage to an existing folder": "FROM base AS s\nFROM scratch\nCOPY --from=s / /",
    "from a stage with attributes": "FROM base AS s\nFROM base\nCOPY --from=s /capable /new\n",
    "attributes of the context": "COPY coloured /new",
    "from an image": "FROM scratch\nCOPY --from=base /dir /new/",
    "archive": "ADD a.tar /new",
    "compressed archive": "ADD a.tgz /new/",
    "archive into an existing tree": "ADD over.tar /",
    "archive through a link": "ADD a.tar /to_dir",
    "archive and a file": "ADD a.tar top.txt /new/",
    "archive within a folder": "ADD archives /new",
    "archive by COPY": "COPY a.tar /new",
    "no archive": "ADD no.tar /new",
    "workdir": "WORKDIR /new/deep\nWORKDIR er",
    "workdir through a link": "WORKDIR /to_dir/new",
    "workdir of a user": "USER user\nWORKDIR /home/user/x",
    "workdir of nobody": "USER nobody\nWORKDIR /new",
}
REFUSED = {
    "missing": "COPY missing /",
    "missing in a folder": "COPY tree/missing /",
    "below a file": "COPY top.txt/x /",
    "outside": "COPY ../outside /",
    "left out": "COPY ignored.txt /",
    "file over a folder": "COPY top.txt /dir/sub/../../dir/sub/file/",
    "folder over a file": "COPY tree /file",
    "wildcard in a folder that is not there": "COPY no/such* /",
    "name on nothing": "FROM scratch\nCOPY --chown=user top.txt /",
    "link that turns in circles": "COPY top.txt /loop/",
    "missing in a stage": "FROM scratch AS s\nFROM base\nCOPY --from=s /missing /",
}
CONFIGS = {
    "environment": "ENV B=1 A=2\nENV B=3\nENV C $A$B",
    "command in the shell": "CMD echo $HOME",
    "command": 'CMD ["a", "b c"]',
    "entrypoint drops the base's command": 'ENTRYPOINT ["e"]',
    "entrypoint after a command": 'CMD ["c"]\nENTRYPOINT ["e"]',
    "entrypoint in the shell": "ENTRYPOINT e x",
    "no entrypoint": "ENTRYPOINT []",
    "working directory": "WORKDIR /a\nWORKDIR b\nWORKDIR ../c",
    "user": "USER me:you",
    "ports": "EXPOSE 80 53/udp 8000-8002/tcp\nEXPOSE 80/TCP",
    "volumes": 'VOLUME /b /a\nVOLUME ["/c d"]',
    "labels": 'LABEL b="two words" a=1\nLABEL a=2 "c d"=e',
    "triggers": "ONBUILD RUN true\nONBUILD COPY a b",
    "stop signal": "STOPSIGNAL SIGINT\nSTOPSIGNAL 9",
    "health": "HEALTHCHECK --interval=90s --timeout=1m30s --start-period=500ms --retries=4 CMD test -e /x",
    "health of a program": 'HEALTHCHECK CMD ["a", "b"]',
    "no health": "HEALTHCHECK CMD x\nHEALTHCHECK NONE",
    "shell": 'SHELL ["/bin/bash", "-c"]\nCMD x',
    "author": "MAINTAINER Some One",
    "arguments": "ARG X=1\nARG Y\nENV Z=$X$Y",
    "files": "COPY top.txt /x\nADD top.txt other/a /y/\nCOPY --chown=1:2 top.txt /z",
    "a base with triggers": "FROM base AS t\nONBUILD ENV FROM_TRIGGER=1\nONBUILD WORKDIR /t\nFROM t\nLABEL x=y",
}


def fill(context):
    """The context of all cases."""

    def write(path, content=b"", mode=0o644):
        file = context / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)

    for path in ("top.txt", "tree/one", "tree/sub/file", "tree/sub/deep/x", "other/a", "other/b", "other/arr[0]"):
        write(path, path.encode())
    for path in ("with space/a b", "größe", "hard/first", "archives/no.tar", "no.tar", "ignored.txt", "tree/x.ignored"):
        write(path, path.encode())
    for mode in (0o400, 0o755, 0o4755, 0o2755, 0o666):
        write(f"modes/{mode:o}", b"x", mode)
    (context / "modes/sticky").mkdir()
    (context / "modes/sticky").chmod(0o1777)
    (context / "tree/sub").chmod(0o705)
    (context / "empty").mkdir(mode=0o711)
    (context / "hard/second").hardlink_to(context / "hard/first")
    (context / "links").mkdir()
    (context / "special").mkdir()
    os.mknod(context / "special/socket", 0o640 | stat.S_IFSOCK)
    links = {
        "link": "top.txt",
        "linkdir": "tree",
        "links/in": "../top.txt",
        "links/out": "/etc/passwd",
        "links/no": "x",
    }
    for path, target in links.items():
        (context / path).symlink_to(target)
    os.chown(context / "tree/one", 1234, 5678)
    write(".dockerignore", b"ignored.txt\n**/*.ignored\nDockerfile\n.dockerignore\n*.dockerfile\n")
    write("a.tar", archive("w", {"in/": (0o750, 3, 4), "in/file": b"x", "in/link": "file", "theirs": (b"y", 12, 34)}))
    write("coloured", b"x")
    os.setxattr(context / "coloured", "user.colour", b"blue")
    write("a.tgz", archive("w:gz", {"zipped": b"x"}))
    write("archives/inner.tar", archive("w", {"x": b"x"}))
    write("over.tar", archive("w", {"dir/": (0o711, 1, 2), "dir/old": b"new", "dir/sub/file": b"n", "to_dir/x": b"x"}))


def archive(mode, files):
    """A tar: bytes are a file (with uid and gid in a tuple), a text a link, numbers the mode and owner of a folder."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode, format=tarfile.PAX_FORMAT) as tar:
        for path, what in files.items():
            member = tarfile.TarInfo(path.rstrip("/"))
            member.mtime, content = 1_500_000_000, b""
            if path.endswith("/"):
                member.type = tarfile.DIRTYPE
                member.mode, member.uid, member.gid = what
            elif isinstance(what, str):
                member.type, member.linkname = tarfile.SYMTYPE, what
            else:
                content, member.uid, member.gid, *attributes = what if isinstance(what, tuple) else (what, 0, 0)
                for name, value in attributes[0].items() if attributes else ():
                    member.pax_headers[f"SCHILY.xattr.{name}"] = value
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def read(path):
    """An archive of ``docker save``: what its one image has, by path, and its config."""
    with tarfile.open(path) as saved:
        (record,) = json.load(saved.extractfile("manifest.json"))
        config = json.load(saved.extractfile(record["Config"]))
        found = {}
        for name in record["Layers"]:
            with tarfile.open(fileobj=saved.extractfile(name)) as layer:
                for member in layer:
                    _apply(found, layer, member)
    return found, config


def _apply(found, layer, member):
    path = os.path.normpath(member.name.lstrip("/"))
    folder, name = os.path.split(path)
    if name == ".wh..wh..opq":
        gone = [other for other in found if other.startswith(f"{folder}/")]
    elif name.startswith(".wh."):
        hidden = os.path.join(folder, name[4:])
        gone = [other for other in found if other == hidden or other.startswith(f"{hidden}/")]
    else:
        gone = [] if member.isdir() else [other for other in found if other.startswith(f"{path}/")]
        found[path] = _entry(found, layer, member)
    for other in gone:
        del found[other]


def _entry(found, layer, member):
    if member.islnk():
        first = os.path.normpath(member.linkname.lstrip("/"))
        return {**found[first], "same as": first}
    # dockerd 20.10 writes no other extended attribute into an archive, wherever it has one.
    xattrs = {key: value for key, value in member.pax_headers.items() if key == "SCHILY.xattr.security.capability"}
    entry = {
        "type": member.type,
        "mode": oct(member.mode & 0o7777),
        "owner": (member.uid, member.gid),
        "xattrs": xattrs,
    }
    if member.issym():
        entry |= {"target": member.linkname, "mode": "0o777"}
    if member.isfile():
        content = layer.extractfile(member).read()
        entry |= {"size": member.size, "content": hashlib.sha256(content).hexdigest()}
    return entry


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory, context):
    """``ours(text)``: files and config of what we build from a Dockerfile, once for all peers."""
    room = tmp_path_factory.mktemp("ours")
    with Engine(cache_dir=room / "store") as engine:

        @functools.cache
        def build(text, name="case"):
            (context / f"{name}.dockerfile").write_text(text)
            image = engine.build(context, dockerfile=f"{name}.dockerfile", tag=name)
            engine.save(name, room / "saved.tar")
            assert image
            return read(room / "saved.tar")

        begin(build, context)
        yield build


@pytest.fixture(scope="module")
def docker(tmp_path_factory, context):
    """``docker(text, buildkit=True)``: the same of a daemon of our own."""
    room = tmp_path_factory.mktemp("docker")
    with docker_daemon(room, client=_client()) as client:

        def build(text, name="case", *, buildkit=True):
            (context / f"{name}.dockerfile").write_text(text)
            env = {**os.environ, "DOCKER_BUILDKIT": str(int(buildkit))}
            command = [*client, "build", "--quiet", "--network=none", f"--file={context}/{name}.dockerfile"]
            done = subprocess.run(
                [*command, f"--tag={name}", str(context)], env=env, capture_output=True, text=True, timeout=DEADLINE
            )
            if done.returncode:
                raise Refused(done.stderr)
            subprocess.run([*client, "save", f"--output={room}/saved.tar", name], check=True, timeout=DEADLINE)
            return read(room / "saved.tar")

        begin(build, context)
        yield build


def _client():
    """A client that builds with BuildKit by itself: newer ones want a plugin, which may not be there."""
    found = [shutil.which("docker", path=folder) for folder in os.get_exec_path()]
    with_plugin = os.path.exists("/usr/libexec/docker/cli-plugins/docker-buildx")
    for client in filter(None, found):
        version = subprocess.run([client, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
        if with_plugin or int(version.split(".")[0]) < 23:
            return client
    return without("a docker client that builds with BuildKit", "docker-buildx")


class Refused(Exception):
    pass


def begin(build, context):
    (context / "base.tar").write_bytes(archive("w", BASE))
    build(BEGINNING, "base")
    (context / "base.tar").unlink()


def whole(text):
    return text if text.startswith("FROM") else f"FROM base\n{text}\n"


def same(found, expected):
    """Fail with what differs and nothing else."""
    paths = sorted(found.keys() | expected.keys())
    differ = [(path, found.get(path), expected.get(path)) for path in paths if found.get(path) != expected.get(path)]
    assert not differ, "\n".join(f"{path}:\n  ours   {mine}\n  theirs {theirs}" for path, mine, theirs in differ)


@pytest.mark.parametrize("name", CASES)
def test_the_files_are_those_of_buildkit(name, ours, docker):
    expected, _ = docker(whole(CASES[name]))
    found, _ = ours(whole(CASES[name]))
    same(found, expected)


# BuildKit is what counts; docs/dockerfile.md says in what the classic builder differs.
CLASSIC_DIFFERS = {
    "from a stage with attributes",
    "modes",
    "the whole context",
    "owner by one number",
    "workdir of a user",
    "workdir of nobody",
    "socket",
}
# The words of the history have changed since BuildKit 0.8, which dockerd 20.10 has.
OLD_WORDS = {"ports", "health", "health of a program", "no health", "files"}


@pytest.mark.parametrize("name", sorted(CASES.keys() - CLASSIC_DIFFERS))
def test_the_files_are_those_of_the_classic_builder(name, ours, docker):
    try:
        expected, _ = docker(whole(CASES[name]), buildkit=False)
    except Refused as error:
        pytest.skip(f"the classic builder refuses it: {error}")
    found, _ = ours(whole(CASES[name]))
    same(found, expected)


BUILDAH_DIFFERS = {
    "file over a link to a file",
    "file over a dangling link",
    "the whole context",
    "several files to a name",
    "modes",
    "socket",
}
BUILDAH_REFUSES = {
    "wildcard of files",
    "name that looks like a wildcard",
    "owner that nobody is",
    "group that is none",
}


def test_the_files_are_those_of_buildah(tmp_path, ours, context):
    """All cases in one build, each a stage whose tree goes into a folder of the last one: that takes seconds."""
    names = [name for name in CASES if name not in BUILDAH_DIFFERS | BUILDAH_REFUSES]
    stages = [as_stage(number, whole(CASES[name])) for number, name in enumerate(names)]
    gathered = [f"COPY --from=case{number} / /{number}/" for number in range(len(names))]
    buildah(tmp_path, context, "base", BEGINNING)
    files = buildah(tmp_path, context, "all", "\n".join([*stages, "FROM scratch", *gathered]))
    for number, name in enumerate(names):
        found, _ = ours(whole(CASES[name]))
        same(found, beneath(f"{number}/", files))


def as_stage(number, text):
    """A Dockerfile as stages of a larger one, the last of them called ``case`` and its number."""
    before, last, after = text.replace(" AS s\n", f" AS s{number}\n").replace("=s ", f"=s{number} ").rpartition("FROM ")
    base, _, rest = after.partition("\n")
    return f"{before}{last}{base} AS case{number}\n{rest}"


def buildah(room, context, name, text):
    """The files of what buildah builds, and keeps under that name."""
    storage = [f"--root={room}/storage", f"--runroot={room}/run", "--storage-driver=vfs"]
    (context / "buildah.dockerfile").write_text(text)
    (context / "base.tar").write_bytes(archive("w", BASE))
    command = [peer("buildah"), *storage, "build", "--quiet", "--isolation=chroot", f"--tag={name}"]
    done = subprocess.run(
        [*command, f"--file={context}/buildah.dockerfile", str(context)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    (context / "base.tar").unlink()
    assert done.returncode == 0, done.stderr
    saved = room / f"{name}.tar"
    subprocess.run([peer("buildah"), *storage, "push", "--quiet", name, f"docker-archive:{saved}"], check=True)
    return read(saved)[0]


def beneath(folder, files):
    """What is in one folder, by the paths there."""
    found = {path.removeprefix(folder): entry for path, entry in files.items() if path.startswith(folder)}
    return {
        path: {key: value.removeprefix(folder) if key == "same as" else value for key, value in entry.items()}
        for path, entry in found.items()
    }


@pytest.mark.parametrize("name", REFUSED)
def test_what_buildkit_refuses_is_refused(name, ours, docker):
    with pytest.raises(Refused):
        docker(whole(REFUSED[name]))
    with pytest.raises(Exception, match=r"case.dockerfile:\d"):
        ours(whole(REFUSED[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_config_is_that_of_buildkit(name, ours, docker):
    _, expected = docker(whole(CONFIGS[name]))
    _, found = ours(whole(CONFIGS[name]))
    fields = found["config"].keys() | expected["config"].keys()
    assert {key: found["config"].get(key) or None for key in fields} == {
        key: expected["config"].get(key) or None for key in fields
    }
    assert found.get("author") == expected.get("author")
    wanted = ("comment", "empty_layer") if name in OLD_WORDS else ("created_by", "comment", "empty_layer")
    assert [{key: one.get(key) for key in wanted} for one in found["history"]] == [
        {key: one.get(key) for key in wanted} for one in expected["history"]
    ]
