"""``capsule load``, ``save`` and ``import``: through files and pipes."""

import io
import json
import os
import pty
import tarfile

import pytest


def rootfs(compression="", **files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture
def bytes_capsule(capsule, capsule_here):
    """``capsule`` with bytes for its input and output."""
    return lambda *words, **how: (capsule if "input" in how else capsule_here)(*words, text=False, **how)


@pytest.mark.parametrize("compression", ["", "gz", "xz"])
def test_import_from_a_pipe(bytes_capsule, compression):
    data = rootfs(compression, file=b"12345")
    words = ("-c", 'CMD ["run"]', "--change", "ENV A=1", "-m", "made by hand")
    done = bytes_capsule("import", *words, "-", "team/seed:1", input=data)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(bytes_capsule("inspect", "team/seed:1").stdout)
    assert (found["Id"], found["Size"], found["Comment"]) == (done.stdout.decode().strip(), 5, "made by hand")
    assert (found["Config"]["Cmd"], found["Config"]["Env"]) == (["run"], ["A=1"])
    assert b"made by hand" in bytes_capsule("history", "team/seed:1").stdout
    assert bytes_capsule("rmi", "team/seed:1").returncode == 0


def test_import_of_a_file_and_of_a_folder_without_a_name(bytes_capsule, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("123")
    (tmp_path / "file.tar").write_bytes(rootfs(file=b"1234"))
    for source, size in (("folder", 3), ("file.tar", 4)):
        image = bytes_capsule("import", source, cwd=tmp_path).stdout.decode().strip()
        (found,) = json.loads(bytes_capsule("inspect", image).stdout)
        assert (found["Size"], found["Comment"]) == (size, f"Imported from {source}")
        assert bytes_capsule("rmi", image).returncode == 0


@pytest.mark.parametrize("data", [b"junk", rootfs(file=b"1" * 1000)[:800]])
def test_what_is_no_root_filesystem(bytes_capsule, data):
    done = bytes_capsule("import", "-", "bad:1", input=data)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"capsule: stdin: ")
    assert b"import takes the tar of a root filesystem" in done.stderr
    assert b"bad" not in bytes_capsule("images").stdout


def test_save_and_load_through_pipes(bytes_capsule, tmp_path):
    bytes_capsule("tag", "hello-world", "kept/one:1")
    saved = bytes_capsule("save", "kept/one:1").stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:
        assert {"manifest.json", "index.json", "oci-layout"} < set(archive.getnames())
    bytes_capsule("rmi", "kept/one:1")
    assert bytes_capsule("load", input=saved).stdout == b"Loaded image: kept/one:1\n"
    assert bytes_capsule("load", "-q", input=saved).stdout == b""
    bytes_capsule("rmi", "kept/one:1")
    (tmp_path / "saved.tar").write_bytes(saved)
    assert bytes_capsule("load", "-i", "saved.tar", cwd=tmp_path).stdout == b"Loaded image: kept/one:1\n"
    bytes_capsule("rmi", "kept/one:1")


def test_save_as_a_folder(bytes_capsule, tmp_path):
    done = bytes_capsule("save", "--format", "oci-dir", "hello-world", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"name it with -o FOLDER" in done.stderr
    assert os.listdir(tmp_path) == []
    assert bytes_capsule("save", "--format", "oci-dir", "-o", "layout", "hello-world", cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "layout/oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert b"Loaded image" in bytes_capsule("load", "-i", "layout", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["save", "not-there"], "no image 'not-there'"),
        (["save", "-o", "/no/where/x", "hello-world"], "/no/where/x cannot be written: No such file or directory"),
        (["load"], "it has neither index.json"),
        (["load", "-i", "/no/where"], "/no/where cannot be read: No such file or directory"),
        (["import", "/no/where"], "/no/where cannot be read: No such file or directory"),
    ],
)
def test_mistakes(capsule_here, words, said):
    done = capsule_here(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("capsule: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["save", "hello-world"], ["load"], ["import", "-"]])
def test_nothing_of_an_archive_is_for_a_terminal(capsule, words):
    own, terminal = pty.openpty()
    try:
        done = capsule(*words, stdin=terminal, stdout=terminal, stderr=-1, capture_output=False)
    finally:
        os.close(own)
        os.close(terminal)
    assert done.returncode == 1
    assert "terminal" in done.stderr
