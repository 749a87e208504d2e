"""``capsule build`` with its Dockerfile, or its whole context, from stdin."""

import gzip
import io
import os
import tarfile

import pytest

PLAIN = b"FROM hello-world\nLABEL from=stdin\n"
COPIES = b"FROM hello-world\nCOPY file /copied\n"


def tar(**files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size, member.uid, member.gid = len(content), 1234, 1234
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture
def build(capsule, cli_environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporary")

    def run(data, *words):
        environment = {**cli_environment, "TMPDIR": str(folder)}
        done = capsule("build", "-q", *words, input=data, text=False, env=environment)
        assert os.listdir(folder) == []
        return done.returncode, done.stdout.decode().strip(), done.stderr.decode()

    return run


def described(capsule, image):
    return capsule("inspect", "-f", "{{.Config.Labels}} {{len .RootFS.Layers}}", image).stdout


def test_a_dockerfile_that_needs_no_context(build, capsule):
    code, image, said = build(PLAIN, "-")
    assert code == 0, said
    assert described(capsule, image) == "map[from:stdin] 1\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gzip"])
def test_the_tar_of_a_context(build, capsule, pack):
    context = tar(Dockerfile=COPIES, file=b"x" * 100, sub__other=PLAIN)
    code, image, said = build(pack(context), "-")
    assert code == 0, said
    assert described(capsule, image) == "map[] 2\n"
    code, image, said = build(pack(context), "-f", "sub/other", "-")
    assert described(capsule, image) == "map[from:stdin] 1\n"


def test_a_dockerfile_for_a_folder(build, capsule, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "Dockerfile").write_text("this is not the one\n")
    code, image, said = build(COPIES, "-f", "-", str(tmp_path))
    assert code == 0, said
    assert described(capsule, image) == "map[] 2\n"
    assert sorted(os.listdir(tmp_path)) == ["Dockerfile", "file"]


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        (PLAIN, ("-f", "-", "-"), "cannot both come from stdin"),
        (b"", ("-",), "no instructions"),
        (COPIES, ("-",), "not found in the build context"),
        (tar(Dockerfile=COPIES)[:700], ("-",), "cannot be unpacked"),
        (tar(file=b"x"), ("-",), "no such Dockerfile"),
    ],
)
def test_what_makes_no_build(build, data, words, said):
    code, out, error = build(data, *words)
    assert (code, out) == (1, "")
    assert said in error
    assert "Traceback" not in error
