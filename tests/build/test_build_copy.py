"""COPY: what lands where, and as what. Where nothing else is said, this is what BuildKit does (tonistiigi/fsutil)."""

import os
import socket
import stat

import pytest

from pytest_capsule.errors import BuildError, DockerfileError


@pytest.fixture
def tree(project):
    """A few files and folders."""
    project.write("a.txt", "a")
    project.write("b.txt", "b")
    project.write("run.sh", "#!/bin/sh\n", mode=0o755)
    project.write("dir/one", "1")
    project.write("dir/deep/two", "2")
    (project.root / "dir/empty").mkdir()
    return project


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        ("COPY a.txt /", ["a.txt"]),
        ("COPY a.txt /renamed", ["renamed"]),
        ("COPY a.txt /new/", ["new", "new/a.txt"]),
        ("COPY a.txt /new/deep/file", ["new", "new/deep", "new/deep/file"]),
        ("COPY a.txt b.txt /new/", ["new", "new/a.txt", "new/b.txt"]),
        ("COPY ?.txt /new/", ["new", "new/a.txt", "new/b.txt"]),
        ("COPY [a].t* /new/", ["new", "new/a.txt"]),
        ("COPY dir /new", ["new", "new/deep", "new/deep/two", "new/empty", "new/one"]),
        ("COPY dir/ /new/", ["new", "new/deep", "new/deep/two", "new/empty", "new/one"]),
        ("COPY dir /", ["deep", "deep/two", "empty", "one"]),
        ("COPY dir/* /new/", ["new", "new/one", "new/two"]),
        ("COPY di*/deep /new/", ["new", "new/two"]),
        ("COPY dir/empty /new", ["new"]),
        ('COPY ["a.txt", "/with a space"]', ["with a space"]),
        ("COPY /a.txt ../../a.txt ./dir/../a.txt /new/", ["new", "new/a.txt"]),
        ("COPY --link a.txt /", ["a.txt"]),
        ("COPY a.txt /etc/hosts", ["etc", "etc/hosts"]),
    ],
)
def test_where_things_land(tree, names_in, copy, expected):
    (layer,) = tree.build(f"FROM scratch\n{copy}\n").layers
    assert names_in(layer) == expected


def test_a_wildcard_that_matches_nothing_copies_nothing(tree):
    assert tree.build("FROM scratch\nCOPY nothing* /new/\n").layers == ()


def test_a_relative_destination_starts_in_the_working_directory(tree):
    image = tree.build(
        "FROM scratch\nWORKDIR /srv\nCOPY a.txt .\nCOPY b.txt sub/\nCOPY b.txt other\nENV D=v\nCOPY a.txt $D/\n"
    )
    with tree.files(image) as container:
        assert container.listdir("/srv") == ["a.txt", "other", "sub", "v"]
        assert container.listdir("/srv/sub") == ["b.txt"]


def test_mode_and_time_are_kept_and_owners_are_not(tree, status):
    os.utime(tree.root / "run.sh", ns=(1, 1_600_000_000_123_456_789))
    (tree.root / "dir").chmod(0o750)
    os.utime(tree.root / "dir", ns=(1, 1_500_000_000_000_000_001))
    image = tree.build("FROM scratch\nCOPY run.sh /new/run.sh\nCOPY . /all/\n")
    with tree.files(image) as container:
        script, folder, made = (status(container, path) for path in ("/new/run.sh", "/all/dir", "/new"))
    assert (stat.S_IMODE(script.mode), script.mtime_ns) == (0o755, 1_600_000_000_123_456_789)
    assert (stat.S_IMODE(folder.mode), folder.mtime_ns) == (0o750, 1_500_000_000_000_000_001)
    assert (script.uid, script.gid, folder.uid, folder.gid) == (0, 0, 0, 0)
    assert stat.S_IMODE(made.mode) == 0o755


def test_setuid_survives(project, status):
    project.write("su", "x", mode=0o4755)
    with project.files(project.build("FROM scratch\nCOPY su /su\n")) as container:
        assert stat.S_IMODE(status(container, "/su").mode) == 0o4755


def test_chmod_is_for_files_and_folders(tree):
    image = tree.build("FROM capsule/host\nCOPY --chmod=0710 dir /new/\nCOPY --chmod=4755 a.txt /new/a\n")
    with tree.files(image) as container:
        listed = container.exec("cd /new; stat -c '%a %n' deep deep/two one a", check=True).stdout
    assert listed.splitlines() == ["710 deep", "710 deep/two", "710 one", "4755 a"]
    assert image.config.history[-1].created_by == "COPY --chmod=4755 a.txt /new/a # buildkit"


@pytest.mark.parametrize("mode", ["u+y", "999", "17777", "-1"])
def test_chmod_takes_an_octal_number(tree, mode):
    with pytest.raises(DockerfileError, match="octal"):
        tree.build(f"FROM scratch\nCOPY --chmod={mode} a.txt /\n")


@pytest.mark.identities("root", "range")
def test_chown_by_name_and_number(tree):
    image = tree.build(
        "FROM capsule/host\nRUN echo app:x:500:600:::/bin/sh >> /etc/passwd; echo crew:x:700: >> /etc/group\n"
        "COPY --chown=app a.txt /new/name\nCOPY --chown=app:crew a.txt /new/both\nCOPY --chown=42 a.txt /new/number\n"
        "COPY --chown=1:2 dir /dir/\n"
    )
    with tree.files(image) as container:
        listed = container.exec("stat -c '%u:%g %n' /new /new/* /dir /dir/deep/two", check=True).stdout
    assert listed.splitlines() == [
        "500:600 /new",  # who makes the parents owns them
        "500:700 /new/both",
        "500:600 /new/name",
        "42:42 /new/number",  # a number alone is the group's number too
        "1:2 /dir",
        "1:2 /dir/deep/two",
    ]


def test_heredoc_files(project, status):
    image = project.build(
        "FROM scratch\nENV NAME=world\n"
        "COPY <<greeting <<'literal' /etc/motd.d/\nhello $NAME\ngreeting\nhello $NAME\nliteral\n"
        "COPY --chmod=755 <<-EOF /bin/tool\n\t#!/bin/sh\n\tEOF\n"
    )
    with project.files(image) as container:
        assert container.read_text("/etc/motd.d/greeting") == "hello world\n"
        assert container.read_text("/etc/motd.d/literal") == "hello $NAME\n"
        assert container.read_text("/bin/tool") == "#!/bin/sh\n"
        assert stat.S_IMODE(status(container, "/bin/tool").mode) == 0o755
    assert [entry.created_by for entry in image.config.history[1:]] == [
        "COPY <<greeting <<literal /etc/motd.d/ # buildkit",
        "COPY --chmod=755 <<EOF /bin/tool # buildkit",
    ]


def test_a_heredoc_never_writes_outside(project, tmp_path):
    with pytest.raises(DockerfileError, match="without folders"):
        project.build("FROM scratch\nCOPY <<../../../../evil /x\ntext\n../../../../evil\n")
    assert not list(tmp_path.rglob("evil"))


def test_destination_symlinks_are_followed_inside_the_image(tree):
    image = tree.build(
        "FROM capsule/host\n"
        "RUN mkdir -p /real/dir && ln -s /real/dir /abs && ln -s ../real/dir /srv/rel"
        " && ln -s ../../../../../real /srv/up && ln -s /real/made /dangling"
        " && echo old > /real/old && ln -s /real/old /to-file\n"
        "COPY a.txt /abs/\nCOPY b.txt /srv/rel\nCOPY a.txt /srv/up/climbed\nCOPY a.txt /dangling\nCOPY b.txt /to-file\n"
    )
    with tree.files(image) as container:
        assert container.listdir("/real") == ["climbed", "dir", "made", "old"]
        assert container.listdir("/real/dir") == ["a.txt", "b.txt"]
        assert container.read_text("/real/old") == "b", "what the link points to is replaced"


def test_source_symlinks(tree):
    os.symlink("a.txt", tree.root / "to-file")
    os.symlink("dir", tree.root / "to-dir")
    os.symlink("/etc/passwd", tree.root / "to-outside")
    os.symlink("/a.txt", tree.root / "absolute")
    os.symlink("nowhere", tree.root / "dir/dangling")
    image = tree.build(
        "FROM scratch\nCOPY to-file /file\nCOPY to-dir /dir\nCOPY absolute /absolute\nCOPY to-dir/deep /deep\n"
    )
    with tree.files(image) as container:
        assert container.read_text("/file") == "a", "a link that is named is followed"
        assert container.read_text("/absolute") == "a", "an absolute one starts at the context"
        assert container.listdir("/deep") == ["two"]
        assert container._call({"op": "link", "path": "/dir/dangling"})[0]["target"] == "nowhere", (
            "one that is found is kept"
        )
    with pytest.raises(BuildError, match="to-outside: not found in the build context"):
        tree.build("FROM scratch\nCOPY to-outside /\n")


def test_names_of_any_bytes(project):
    names = [b"with space", "größe".encode(), b"\xff\xfe raw", b"new\nline", b"-dash", b"back\\slash"]
    (project.root / "dir").mkdir()
    for name in names:
        with open(os.path.join(os.fsencode(project.root), b"dir", name), "wb") as file:
            file.write(name)
    image = project.build("FROM scratch\nCOPY dir /dir\n")
    with project.files(image) as container:
        for name in names:
            assert container.read_bytes(f"/dir/{os.fsdecode(name)}") == name
        assert len(container.listdir("/dir")) == len(names)
    project.build()
    assert project.kinds() == ["cached"]


def test_hard_links_stay_one_file(project):
    first = project.write("dir/sub/first", "same")
    os.link(first, project.root / "dir/zweiter")
    os.link(first, project.root / "dir/sub/third")
    image = project.build("FROM scratch\nCOPY dir /dir\nCOPY dir /dir\n")
    with project.files(image) as container:
        inodes = set()
        for name in ("sub/first", "zweiter", "sub/third"):
            with container.open(f"/dir/{name}") as file:
                inodes.add(os.fstat(file.fileno()).st_ino)
        assert len(inodes) == 1
        assert container.read_text("/dir/sub/third") == "same"


def test_fifos_are_copied_and_of_sockets_an_empty_file(project, status, monkeypatch):
    (project.root / "dir").mkdir()
    os.mkfifo(project.root / "dir/fifo")
    monkeypatch.chdir(project.root)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("dir/socket")
        image = project.build("FROM scratch\nCOPY dir /dir\n")
        alone = project.build("FROM scratch\nADD --chmod=640 dir/socket /socket\n")
    with project.files(image) as container:
        assert container.listdir("/dir") == ["fifo", "socket"]
        assert stat.S_ISFIFO(status(container, "/dir/fifo").mode)
        assert container.read_bytes("/dir/socket") == b""
    with project.files(alone) as container:
        assert status(container, "/socket").mode == stat.S_IFREG | 0o640


def test_a_deep_tree(project):
    deep = "/".join(f"d{level}" for level in range(100))
    project.write(f"dir/{deep}/leaf", "down here")
    with project.files(project.build("FROM scratch\nCOPY dir /dir\n")) as container:
        assert container.read_text(f"/dir/{deep}/leaf") == "down here"


def test_a_sparse_file_stays_sparse(project):
    size = 256 << 20
    with open(project.root / "sparse", "wb") as file:
        file.write(b"start")
        file.seek(size // 2)
        file.write(b"middle")
        file.truncate(size)
    image = project.build("FROM scratch\nCOPY sparse /sparse\n")
    with project.files(image) as container, container.open("/sparse", "rb") as copy:
        info = os.stat(copy.fileno())
        assert info.st_size == size
        assert info.st_blocks * 512 < 1 << 20
        assert copy.read(6) == b"start\0"
        copy.seek(size // 2)
        assert copy.read(7) == b"middle\0"


def test_a_thousand_files_land_under_the_hosts_usr(project):
    for number in range(1000):
        project.write(f"many/d{number % 7}/f{number}", str(number))
    image = project.build(
        "FROM capsule/host\nCOPY many /usr/share/many\nCOPY many/d0/f0 /usr/bin/tool\nRUN cat /usr/bin/tool\n"
    )
    assert project.output() == "0"
    with project.files(image) as container:
        assert container.exec("find /usr/share/many -type f | wc -l", check=True).stdout.strip() == "1000"
        assert container.read_text("/usr/share/many/d6/f6") == "6"
        assert container.exists("/usr/bin/env"), "what the host has there is still there"
    assert not os.path.exists("/usr/share/many")


def test_a_directory_that_is_there_keeps_what_it_holds(project, status):
    project.write("first/etc/kept", "kept")
    project.write("first/etc/sub/kept", "kept")
    project.write("second/etc/sub/new", "new")
    (project.root / "second").chmod(0o700)
    (project.root / "second/etc/sub").chmod(0o711)
    image = project.build("FROM scratch\nCOPY first /tree\nCOPY second /tree\n")
    with project.files(image) as container:
        assert container.listdir("/tree/etc") == ["kept", "sub"]
        assert container.listdir("/tree/etc/sub") == ["kept", "new"]
        modes = {path: stat.S_IMODE(status(container, path).mode) for path in ("/tree", "/tree/etc/sub")}
    # The destination itself stays as it is; directories found within the source are copied with their modes.
    assert modes == {"/tree": 0o755, "/tree/etc/sub": 0o711}


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("COPY dir /x/a.txt/", "COPY a.txt /x/", "cannot replace a directory with a file"),
        ("COPY a.txt /x/deep", "COPY dir /x", "cannot copy a directory over what is not one"),
        ("COPY a.txt /x", "COPY b.txt /x/", "not a directory"),
        ("COPY a.txt /x", "COPY dir /x", "not a directory"),
        ("COPY a.txt /x", "COPY dir /x/below", "not a directory"),
    ],
)
def test_files_and_directories_do_not_replace_each_other(tree, first, second, reason):
    with pytest.raises(BuildError, match=reason) as caught:
        tree.build(f"FROM scratch\n{first}\n{second}\n")
    assert caught.value.step == second
    assert (caught.value.line, caught.value.exit_code) == (3, None)


def test_a_file_replaces_a_file_and_a_link(tree):
    os.symlink("b.txt", tree.root / "dir/link")
    tree.write("over/link", "a file now")
    tree.write("over/one", "another one")
    with tree.files(tree.build("FROM scratch\nCOPY dir /d\nCOPY over /d\n")) as container:
        assert container.read_text("/d/link") == "a file now"
        assert container.read_text("/d/one") == "another one"


def test_an_unreadable_file_is_named(tree, identity):
    if identity == "root":
        pytest.skip("root reads every file")
    tree.write("dir/deep/secret", "x", mode=0)
    with pytest.raises(BuildError, match="dir/deep/secret: Permission denied") as caught:
        tree.build("FROM scratch\nCOPY . /\n")
    assert caught.value.line == 2


def test_a_file_that_vanishes_between_hashing_and_copying(tree):
    def remove(event):
        if event.kind == "start" and event.step:
            (tree.root / "dir/one").unlink()

    tree.write("Dockerfile", "FROM scratch\nCOPY dir /dir\n")
    with pytest.raises(BuildError, match="No such file or directory: dir/one"):
        tree.engine.build(tree.root, progress=remove)


def test_a_file_that_is_written_to_between_hashing_and_copying(tree):
    def change(event):
        if event.kind == "start" and event.step:
            tree.write("dir/one", "other")

    tree.write("Dockerfile", "FROM scratch\nCOPY dir /changed-meanwhile\n")
    with pytest.raises(BuildError, match="written to while it was copied; try again: dir/one"):
        tree.engine.build(tree.root, progress=change)
    with tree.files(tree.build()) as container:
        assert container.read_text("/changed-meanwhile/one") == "other", "nothing wrong was cached"


def test_copy_from_an_image_and_a_stage(tree, status):
    tree.build("FROM scratch\nCOPY run.sh /bin/run.sh\n", tag="tools:1")
    image = tree.build(
        "FROM scratch AS files\nCOPY a.txt /in/a.txt\n"
        "FROM scratch\nCOPY --from=files /in /out\nCOPY --from=0 /in/a.txt /zero\nCOPY --from=tools:1 /bin/* /bin/\n"
        "COPY --from=hello-world /hello /hello\nCOPY --from=capsule/host /usr/bin/env /env\n"
    )
    with tree.files(image) as container:
        assert container.read_text("/out/a.txt") == container.read_text("/zero") == "a"
        assert stat.S_IMODE(status(container, "/bin/run.sh").mode) == 0o755
        assert container.read_bytes("/hello").startswith(b"\x7fELF")
        assert container.read_bytes("/env").startswith(b"\x7fELF")
        for path in ("/out/a.txt", "/bin/run.sh", "/hello", "/env"):
            assert (status(container, path).uid, status(container, path).gid) == (0, 0)
    assert image.config.history[0].created_by == "COPY /in /out # buildkit"


def test_a_whole_stage_has_nothing_but_its_own(tree, names_in):
    image = tree.build("FROM scratch AS files\nCOPY a.txt /a.txt\nFROM scratch\nCOPY --from=files / /\n")
    assert names_in(image.layers[0]) == ["a.txt"], "no mount point of a container is copied"


@pytest.mark.identities("root", "range")
def test_copy_from_keeps_owners_and_reads_what_is_private(tree):
    image = tree.build(
        "FROM capsule/host AS made\nRUN mkdir -m 700 /made /made/private && echo s > /made/private/secret"
        " && chmod 600 /made/private/secret && chown -R 70:71 /made\n"
        "FROM capsule/host\nCOPY --from=made /made /copy\nCOPY --from=made --chown=9 /made/private /owned\n"
        "COPY --from=made /made/private/secret /alone\n"
    )
    with tree.files(image) as container:
        listed = container.exec(
            "stat -c '%u:%g %a %n' /copy/private /copy/private/secret /owned/secret /alone", check=True
        )
    assert listed.stdout.splitlines() == [
        "70:71 700 /copy/private", "70:71 600 /copy/private/secret", "9:9 600 /owned/secret", "70:71 600 /alone",
    ]  # fmt: skip


@pytest.mark.identities("root")
def test_copy_from_takes_devices_along(project, status, debian_rootfs):
    assert stat.S_ISCHR(os.lstat(debian_rootfs / "dev/null").st_mode)
    image = project.build(f"FROM rootfs:{debian_rootfs} AS debian\nFROM scratch\nCOPY --from=debian /dev /devices\n")
    with project.files(image) as container:
        null = status(container, "/devices/null")
    assert stat.S_ISCHR(null.mode)
    assert null.rdev == os.makedev(1, 3)
