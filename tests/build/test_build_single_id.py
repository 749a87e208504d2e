"""Builds by who has a single id: owners and other users are feigned, and what was asked for is on record."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from pytest_capsule._linux import ownership
from pytest_capsule.errors import BuildError

pytestmark = pytest.mark.identities("single")
ACCOUNTS = "RUN echo app:x:500:600::/srv/app:/bin/sh >> /etc/passwd; echo crew:x:700:app >> /etc/group\n"


def owner(image, path):
    """The owner that the topmost layer has on record for a path."""
    return next(
        (
            ownership.recorded(layer.path + path)
            for layer in reversed(image.layers)
            if os.path.lexists(layer.path + path)
        ),
        None,
    )


def test_chown_is_on_record_and_moves_with_its_file(project):
    image = project.build(
        "FROM capsule/host\n" + ACCOUNTS + "RUN mkdir /d && touch /a /b /c /d/old && ln -s /a /link"
        " && chown 33:44 /a && chown app /b && chgrp crew /b && chown app:crew /c && chown -R 7:8 /d && chown 9:9 /link"
        " && chown -h 1:1 /link && chown app /dev/stdout && mv /d/old /d/new && mv /c /moved\n"
        "RUN chown 0:0 /moved && touch /d\n"
    )
    found = {path: owner(image, path) for path in ("/a", "/b", "/moved", "/d", "/d/new", "/link")}
    assert found == {"/a": (9, 9), "/b": (500, 700), "/moved": None, "/d": (7, 8), "/d/new": (7, 8), "/link": None}


def test_chown_fails_as_it_does_for_root(project):
    project.build(
        "FROM capsule/host\nRUN touch /set && chmod 6755 /set && chown 1:1 /set && stat -c %a /set;"
        " chown 1 /missing 2>&1; chown 1 /dev/null/below 2>&1; chown 1 '' 2>&1; true\n"
    )
    lines = project.output().splitlines()
    assert lines[0] == "755"  # chown(2) clears setuid bits
    assert [line.rpartition(": ")[2] for line in lines[1:]] == [
        "No such file or directory",
        "Not a directory",
        "No such file or directory",
    ]


def test_a_process_becomes_another_user_and_its_children_are(project):
    project.write(
        "become.py",
        "import os, subprocess\n"
        "os.setgroups([5, 6]); os.setresgid(7, 8, 9); os.setresuid(41, 42, 43)\n"
        "print(os.getresuid(), os.getresgid(), os.getgroups(), flush=True)\n"
        "for what in '-u', '-g', '-G': subprocess.run(['id', what])\n"
        "for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([])):\n"
        "    try: call()\n"
        "    except PermissionError: print('refused')\n"
        "os.setuid(43)\n"
        "print(os.geteuid(), os.getuid())\n",
    )
    project.build(f"FROM capsule/host\nCOPY become.py /\nRUN {sys.executable} /become.py; id -u\n")
    assert project.output().splitlines() == [
        "(41, 42, 43) (7, 8, 9) [5, 6]",
        "42",
        "8",
        "7 8 5 6",
        "refused",
        "refused",
        "refused",
        "43 41",
        "0",
    ]


def test_threads_of_a_process_become_one_user(project):
    """glibc makes the call in every thread: setxid in nptl(7)."""
    project.write(
        "threads.py",
        "import os, threading\n"
        "go, said = threading.Event(), []\n"
        "one = threading.Thread(target=lambda: (go.wait(20), said.append((os.getuid(), os.getgid()))))\n"
        "one.start(); os.setgid(8); os.setuid(7); go.set(); one.join(); print(said)\n",
    )
    project.build(f"FROM capsule/host\nCOPY threads.py /\nRUN {sys.executable} /threads.py\n")
    assert project.output() == "[(7, 8)]\n"


def test_setpriv_keeps_its_capabilities_until_it_has_changed_its_group(project):
    project.build("FROM capsule/host\nRUN setpriv --reuid=5 --regid=6 --clear-groups id\n")
    assert project.output().startswith("uid=5")
    assert "gid=6" in project.output()


def test_user_and_working_directory(project):
    image = project.build(
        "FROM capsule/host\n" + ACCOUNTS + "RUN touch /before\nUSER app\nWORKDIR /srv/app\n"
        "RUN id -u; id -g; echo $HOME; touch here && mkdir -p deep/er && touch deep/file && ln -s here link\n"
        "USER 77:88\nRUN id -u; id -g; touch /number\nUSER root\nRUN id -u; touch /after\n"
    )
    assert project.output().split() == ["500", "600", "/srv/app", "77", "88", "0"]
    assert owner(image, "/srv/app") == (500, 600)
    for path in ("here", "deep", "deep/er", "deep/file"):
        assert owner(image, f"/srv/app/{path}") == (500, 600)
    assert owner(image, "/number") == (77, 88)
    assert owner(image, "/before") is owner(image, "/after") is owner(image, "/srv") is None


def test_copy_with_an_owner_and_from_another_stage(project):
    project.write("file")
    project.write("tree/deep/file")
    image = project.build(
        "FROM capsule/host AS first\n" + ACCOUNTS + "COPY --chown=app:crew file /new/\nCOPY --chown=42 tree /tree/\n"
        "RUN chown 1:2 /tree/deep\n"
        "FROM scratch\nCOPY --from=first /new/file /tree /kept/\nCOPY --from=first --chown=3:4 /new/file /given\n"
    )
    assert {path: owner(image, path) for path in ("/kept/file", "/kept/deep", "/kept/deep/file", "/given")} == {
        "/kept/file": (500, 700),
        "/kept/deep": (1, 2),
        "/kept/deep/file": (42, 42),
        "/given": (3, 4),
    }


def test_archives_keep_the_owners_that_they_name(project, tmp_path):
    with tarfile.open(project.root / "some.tar", "w") as archive:
        for name, kind, uid in (
            ("mine", tarfile.REGTYPE, 0),
            ("theirs", tarfile.REGTYPE, 12),
            ("dir", tarfile.DIRTYPE, 3),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.uid, member.gid = kind, uid, uid
            archive.addfile(member)
    image = project.build("FROM scratch\nADD some.tar /\n")
    assert [owner(image, path) for path in ("/mine", "/theirs", "/dir")] == [None, (12, 12), (3, 3)]


def test_devices_and_capabilities_seem_to_be_there(project):
    project.build("FROM capsule/host\nRUN mknod /node c 1 3 && ls /node; mkfifo /fifo && test -p /fifo && echo fifo\n")
    assert project.output().endswith("fifo\n")


def test_pip_install(project):
    with zipfile.ZipFile(project.root / "demo-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo.py", "print('installed')")
        wheel.writestr("demo-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1\n")
        wheel.writestr("demo-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("demo-1.dist-info/RECORD", "demo.py,,\ndemo-1.dist-info/METADATA,,\ndemo-1.dist-info/WHEEL,,\n")
    project.build(
        "FROM capsule/host\nCOPY demo-1-py3-none-any.whl /tmp/\n"
        f"RUN {sys.executable} -m pip install -q --no-index --target /srv/site /tmp/demo-1-py3-none-any.whl\n"
        f"RUN PYTHONPATH=/srv/site {sys.executable} -m demo\n"
    )
    assert project.output().endswith("installed\n")


LISTENED_TO = """
import sys
from pytest_capsule._linux import constants, syscalls
from pytest_capsule._linux.seccomp.bpf import ALLOW, compile_filter
from pytest_capsule.cli import main
syscalls.prctl(constants.PR_SET_NO_NEW_PRIVS, 1)
listener = syscalls.seccomp(compile_filter({}, ALLOW), listen=True)
sys.exit(main(sys.argv[1:]))
"""


def test_where_somebody_listens_already_chown_succeeds_unrecorded(project, tmp_path):
    """A process has one listener at most, and some container managers are one: seccomp_unotify(2), EBUSY."""
    project.write("Dockerfile", "FROM capsule/host\nRUN touch /a; chown 1:1 /a && stat -c %u:%g /a; id -u\n")
    words = ["--cache-dir", str(tmp_path / "cache"), "build", "--progress", "plain", str(project.root)]
    done = subprocess.run(
        [sys.executable, "-c", LISTENED_TO, *words], capture_output=True, text=True, timeout=120, check=True
    )
    assert re.findall(r"#\d+ \d+\.\d+ (.*)", done.stderr) == ["0:0", "0"]


def test_running_as_another_user_still_needs_a_range(project):
    image = project.build("FROM capsule/host\n" + ACCOUNTS + "USER app\n")
    with pytest.raises(Exception, match="range of ids"), project.engine.run(image, command=["true"]):
        pass


def test_a_user_that_the_image_does_not_have_is_still_an_error(project):
    with pytest.raises(BuildError, match="no user 'ghost'"):
        project.build("FROM capsule/host\nUSER ghost\nRUN true\n")
