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


def test_the_key_takes_them(project, coloured):
    text = "FROM scratch\nCOPY coloured /attributes/\n"
    project.build(text)
    project.build()
    assert project.kinds() == ["cached"]
    os.setxattr(coloured, NAME, b"red")
    with project.files(project.build()) as container:
        assert attribute(container, "/attributes/coloured") == b"red"
