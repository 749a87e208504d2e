"""Extended attributes of what is copied."""

import os

import pytest

NAME = "user.colour"


@pytest.fixture
def coloured(project):
    """A file with an attribute, where the filesystem has any."""
    file = project.write("coloured", "x")
    try:
        os.setxattr(file, NAME, b"blue")
    except OSError as error:
        pytest.skip(f"no extended attributes at {file}: {error}")
    return file


def attribute(container, path):
    with container.open(path, "rb") as file:
        return os.getxattr(file.fileno(), NAME)


def test_they_go_along_from_the_context_and_from_a_stage(project, coloured):
    image = project.build(
        "FROM scratch AS s\nCOPY coloured /one\n"
        "FROM scratch\nCOPY --from=s /one /two\nCOPY --chmod=400 coloured /three\n"
    )
    with project.files(image) as container:
        assert attribute(container, "/two") == attribute(container, "/three") == b"blue"


def test_those_of_folders_go_along_too(project, coloured):
    os.setxattr(project.write("dir/sub/file", "x").parent, NAME, b"blue")
    text = "FROM scratch AS s\nCOPY dir /one\nFROM scratch\nCOPY --from=s / /\n"
    with project.files(project.build(text)) as container:
        assert directory_attribute(container, "/one/sub") == b"blue"
    os.setxattr(project.root / "dir/sub", NAME, b"red")
    with project.files(project.build()) as container:
        assert directory_attribute(container, "/one/sub") == b"red"


def directory_attribute(container, path):
    fd = container._call({"op": "open", "path": path, "flags": os.O_RDONLY | os.O_DIRECTORY, "mode": 0})[1][0]
    try:
        return os.getxattr(fd, NAME)
    finally:
        os.close(fd)


def test_the_key_takes_them(project, coloured):
    text = "FROM scratch\nCOPY coloured /attributes/\n"
    project.build(text)
    project.build()
    assert project.kinds() == ["cached"]
    os.setxattr(coloured, NAME, b"red")
    with project.files(project.build()) as container:
        assert attribute(container, "/attributes/coloured") == b"red"
