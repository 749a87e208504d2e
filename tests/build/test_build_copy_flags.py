"""COPY --parents, --exclude, --link and the words of --chmod."""

import stat
import subprocess

import pytest

from pytest_capsule.build.modes import Mode


@pytest.fixture
def tree(project):
    """a/b/one.txt, a/b/two.md, a/c/one.txt and top.txt; a/b has mode 700."""
    for path in ("a/b/one.txt", "a/b/two.md", "a/c/one.txt", "top.txt"):
        project.write(path, path)
    (project.root / "a/b").chmod(0o700)
    (project.root / "Dockerfile").write_text("")
    return project


def files_of(project, image):
    """Every path of the image's files, directories with a slash."""
    found = []
    system = ("/dev/", "/etc/", "/proc/", "/sys/")
    with project.files(image) as container:
        folders = [""]
        while folders:
            folder = folders.pop()
            for entry in container._call({"op": "list", "path": folder or "/"})[0]["entries"]:
                path = f"{folder}/{entry['name']}"
                if stat.S_ISDIR(entry["mode"]):
                    path += "/"
                if not path.startswith(system):
                    found.append(path)
                    folders += [path.rstrip("/")] if path.endswith("/") else []
    return sorted(found)


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        ("--parents a/b/one.txt top.txt /to/", ["a/", "a/b/", "a/b/one.txt", "top.txt"]),
        ("--parents ./a/./b/one.txt /to/", ["b/", "b/one.txt"]),
        ("--parents a/./ /to/", ["b/", "b/one.txt", "b/two.md", "c/", "c/one.txt"]),
        ("--parents a/*/one.txt /to/", ["a/", "a/b/", "a/b/one.txt", "a/c/", "a/c/one.txt"]),
        ("--parents **/*.md /to/", ["a/", "a/b/", "a/b/two.md"]),
        ("--parents a/b /to/", ["a/", "a/b/", "a/b/one.txt", "a/b/two.md"]),
        ("--parents --exclude=**/*.md a /to/", ["a/", "a/b/", "a/b/one.txt", "a/c/", "a/c/one.txt"]),
        ("--parents a*/./*/one.txt /to/", ["b/", "b/one.txt", "c/", "c/one.txt"]),
        ("--exclude=*.md --exclude=c a/b a/c a /to/", ["b/", "b/one.txt", "b/two.md", "one.txt"]),
        ("--exclude=* --exclude=!c a /to/", ["c/", "c/one.txt"]),
        ("--exclude=top.txt top.txt /to/", ["top.txt"]),
        ("--exclude=* a* /to/", []),
    ],
)
def test_what_parents_and_exclude_leave(tree, copy, expected):
    image = tree.build(f"FROM scratch\nCOPY {copy}\n")
    assert files_of(tree, image) == ["/to/", *(f"/to/{path}" for path in expected)]


def test_the_folders_on_the_way_have_their_own_modes(tree, status):
    image = tree.build("FROM scratch\nWORKDIR /to/a\nCOPY --parents a/b/one.txt /to/\n")
    with tree.files(image) as container:
        assert stat.S_IMODE(status(container, "/to/a/b").mode) == 0o700
    assert image.config.history[-1].created_by == "COPY --parents a/b/one.txt /to/ # buildkit"


def test_parents_and_exclude_from_another_stage(tree):
    image = tree.build(
        "FROM scratch AS stage\nCOPY a /src/a\n"
        "FROM scratch\nCOPY --from=stage --parents --exclude=**/*.md /src/./a/b /to/\n"
    )
    assert files_of(tree, image) == ["/to/", "/to/a/", "/to/a/b/", "/to/a/b/one.txt"]


def test_an_excluded_file_is_no_part_of_the_key(tree):
    text = "FROM scratch\nCOPY --exclude=**/*.md a /to/\n"
    tree.build(text)
    tree.write("a/b/two.md", "changed")
    tree.build()
    assert tree.kinds() == ["cached"]


def test_what_is_taken_from_a_stage_is_remembered(tree, monkeypatch):
    """A build whose steps are all in the cache opens no tree."""
    text = "FROM scratch AS stage\nCOPY a /src/\nFROM scratch\nCOPY --from=stage /src/b /to/\n"
    tree.build(text)
    monkeypatch.setattr("pytest_capsule.workshop.ContainerWorkshop.open_tree", None)
    tree.build()
    assert tree.kinds() == ["cached", "cached"]


# -- link --------------------------------------------------------------------------------------------------------------


def test_link_knows_nothing_of_what_lies_below(tree, status):
    """A symlink on the way is replaced by a folder, and the layer is the same one on any base."""
    tree.write("x/target/kept", "kept")
    tree.write("x/way", "")
    (tree.root / "x/way").unlink()
    (tree.root / "x/way").symlink_to("target")
    below = "FROM scratch\nCOPY x /\n"
    linked = tree.build(f"{below}COPY --link top.txt /way/\n")
    plain = tree.build(f"{below}COPY top.txt /way/\n")
    with tree.files(plain) as container:
        assert container.listdir("/target") == ["kept", "top.txt"]
    with tree.files(linked) as container:
        assert container.listdir("/target") == ["kept"]
        assert stat.S_ISDIR(status(container, "/way").mode)
        assert container.read_text("/way/top.txt") == "top.txt"
    other = tree.build("FROM scratch\nWORKDIR /elsewhere\nCOPY --link top.txt /way/\n")
    assert tree.kinds() == ["done", "cached"]
    assert other.layers[-1] == linked.layers[-1]


def test_chmod_undoes_link(tree):
    """convert_copy.go: a COPY with both is a COPY on what lies below."""
    tree.build("FROM scratch\nCOPY --link --chmod=600 top.txt /\n")
    tree.build("FROM scratch\nWORKDIR /below/it\nCOPY --link --chmod=600 top.txt /\n")
    assert tree.kinds() == ["done", "done"]


@pytest.mark.identities("root", "range")
def test_link_with_the_numbers_of_an_owner(tree, status):
    with tree.files(tree.build("FROM scratch\nCOPY --link --chown=7:8 top.txt /\n")) as container:
        info = status(container, "/top.txt")
    assert (info.uid, info.gid) == (7, 8)


# -- chmod -------------------------------------------------------------------------------------------------------------


def test_the_words_of_chmod(tree, status):
    tree.write("a/program", mode=0o744)
    with tree.files(tree.build("FROM scratch\nCOPY --chmod=u=rwX,go=rX a /to/\n")) as container:
        modes = {path: stat.S_IMODE(status(container, path).mode) for path in ("/to/b", "/to/program", "/to/c/one.txt")}
    assert modes == {"/to/b": 0o755, "/to/program": 0o755, "/to/c/one.txt": 0o644}


@pytest.mark.parametrize(
    "words",
    ["755", "u+x", "go-rwx", "a=r", "u=rwx,go=rx", "g=u", "go=u-w", "+x", "a+X", "u+s,+t", "+t", "o=g", "u=rwX,go=rX"],
)
@pytest.mark.parametrize("mode", [0o644, 0o750, 0o4711, 0o600])
@pytest.mark.parametrize("directory", [False, True])
def test_modes_are_those_of_chmod(tmp_path, words, mode, directory):
    path = tmp_path / "file"
    path.mkdir() if directory else path.touch()
    path.chmod(mode)
    subprocess.run(["sh", "-c", 'umask 0 && exec chmod -- "$0" "$1"', words, path], check=True)
    kept = 0o6000 if directory else 0  # GNU's chmod keeps a directory's set-id bits
    assert Mode.parse(words).applied(mode, directory=directory) | kept == stat.S_IMODE(path.stat().st_mode) | kept


@pytest.mark.parametrize(
    ("chmod", "first", "second"), [("4750", 0o750, 0o700), ("600", 0o600, 0o700), ("u=rwX,go=rX", 0o755, 0o700)]
)
def test_folders_that_have_to_be_made_take_part_in_chmod(tree, status, chmod, first, second):
    tree.write("old/file")
    (tree.root / "old").chmod(second)
    image = tree.build(
        f"FROM scratch\nCOPY . /\nCOPY --chmod={chmod} top.txt /new/er/\nCOPY --chmod={chmod} top.txt /old/\n"
    )
    with tree.files(image) as container:
        modes = [stat.S_IMODE(status(container, path).mode) for path in ("/new", "/new/er", "/old")]
    assert modes == [first, first, second]


def test_an_owner_that_the_image_does_not_know_is_root_and_told_of(tree, status):
    image = tree.build("FROM hello-world\nCOPY --chown=ghost:none top.txt /new\nUSER ghost\nWORKDIR /work\n")
    with tree.files(image) as container:
        owners = {(info.uid, info.gid) for info in (status(container, "/new"), status(container, "/work"))}
    assert owners == {(0, 0)}
    told = tree.output().splitlines()
    assert [line.partition(" in ")[0] for line in told] == [
        "warning: no user 'ghost'",
        "warning: no group 'none'",
        "warning: no user 'ghost'",
    ]
