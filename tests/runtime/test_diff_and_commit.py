"""``diff`` and ``commit``: what a container has written."""

from __future__ import annotations

import os

import pytest

from pytest_capsule.errors import ImageNotFound, UsageError


def lines(container):
    return [str(change) for change in container.diff()]


@pytest.fixture
def base(engine):
    """An image with a few files to change."""
    with engine.run("capsule/host", command=[]) as container:
        container.exec(
            "mkdir -p /srv/dir/inner; cd /srv; echo 1 >changed; echo 1 >removed; echo 1 >dir/a; echo 1 >dir/b; "
            "echo 1 >dir/inner/c; echo 1 >renamed",
            check=True,
        )
        return container.commit()


def test_a_fresh_container_has_changed_nothing(engine, debian_image):
    for image in ("capsule/host", debian_image):
        with engine.run(image, command=[]) as container:
            container.exec("ls / /etc /usr")
            assert lines(container) == []


def test_added_changed_and_deleted(engine, base):
    with engine.run(base, command=[]) as container:
        container.exec("cd /srv; echo 2 >changed; rm removed; mkdir new; echo 1 >new/file; mv renamed moved")
        assert lines(container) == [
            "C /srv",
            "C /srv/changed",
            "A /srv/moved",
            "A /srv/new",
            "A /srv/new/file",
            "D /srv/removed",
            "D /srv/renamed",
        ]


def test_a_directory_removed_hides_what_it_held(engine, base):
    with engine.run(base, command=[]) as container:
        container.exec("rm -r /srv/dir")
        assert lines(container) == ["C /srv", "D /srv/dir"]


def test_a_directory_made_anew_names_what_it_hides(engine, base):
    with engine.run(base, command=[]) as container:
        container.exec("cd /srv; rm -r dir; mkdir dir; echo 2 >dir/b; echo 2 >dir/new")
        assert lines(container) == [
            "C /srv",
            "C /srv/dir",
            "D /srv/dir/a",
            "C /srv/dir/b",
            "D /srv/dir/inner",
            "A /srv/dir/new",
        ]


def test_a_file_added_and_removed_leaves_no_trace(engine, base):
    with engine.run(base, command=[]) as container:
        container.exec("echo 1 >/srv/brief; rm /srv/brief")
        assert lines(container) == ["C /srv"]


def test_a_diff_of_a_busy_container(host, eventually):
    process = host.popen("cd /srv; touch /tmp/going; while :; do mkdir -p d/e; echo >d/e/f; rm -r d; done")
    eventually(lambda: host.exists("/tmp/going"))
    for _ in range(50):
        assert "A /tmp/going" in lines(host)
    process.kill()


def test_a_committed_image_has_it_all(engine, base):
    script = r"""
        set -e
        cd /srv
        rm removed; rm -r dir; mkdir dir; echo new >dir/only
        echo linked >one; ln one two; ln -s one soft; mkfifo fifo
        echo x >mode; chmod 4711 mode; mkdir -m 1777 sticky
        touch -d @1000000000.123456789 mode
        printf '' >"$(printf 'caf\351')"
    """
    with engine.run(base, command=[]) as container:
        container.exec(script, check=True)
        container.exec(["python3", "-c", "import os; os.setxattr('/srv/one', 'user.note', b'kept')"], check=True)
        before = container.exec("cd /srv; stat -c '%n %a %u:%g %F' *; ls -a; cat one mode").stdout
        image = container.commit()
        container.write_text("/srv/later", "")
    with engine.run(image, command=[]) as container:
        assert container.exec("cd /srv; stat -c '%n %a %u:%g %F' *; ls -a; cat one mode").stdout == before
        assert container.listdir("/srv/dir") == ["only"]
        assert container.exec("cd /srv; stat -c %i one two | uniq | wc -l; readlink soft").stdout == "1\none\n"
        assert container.exec(["stat", "-c", "%.9Y", "/srv/mode"]).stdout == "1000000000.123456789\n"
        note = "import os; print(os.getxattr('/srv/two', 'user.note'))"
        assert container.exec(["python3", "-c", note]).stdout == "b'kept'\n"
        assert lines(container) == []


@pytest.mark.identities("root", "range")
def test_a_committed_image_keeps_owners(engine, debian):
    debian.exec("touch /srv/owned; chown 12:34 /srv/owned", check=True)
    with engine.run(debian.commit(), command=[]) as container:
        assert container.exec("stat -c %u:%g /srv/owned").stdout == "12:34\n"


def test_file_capabilities_are_kept(engine, host):
    value = (0x02000001).to_bytes(4, "little") + (1 << 13).to_bytes(4, "little") + bytes(12)
    read = "import os; print(os.getxattr('/srv/cat', 'security.capability')[:8].hex())"
    host.exec("cp /bin/cat /srv/cat", check=True)
    host.exec(["python3", "-c", f"import os; os.setxattr('/srv/cat', 'security.capability', {value!r})"], check=True)
    before = host.exec(["python3", "-c", read]).stdout
    with engine.run(host.commit(), command=[]) as container:
        assert container.exec(["python3", "-c", read], check=True).stdout == before


def test_a_sparse_file_takes_no_room_in_the_store_or_outside(engine, host, tmp_path):
    script = (
        "cd /srv; truncate -s 4G sparse; for at in 1 3000; do echo x | dd of=sparse seek=$at bs=1M conv=notrunc; done"
    )
    host.exec(script, check=True)
    host.exec("truncate -s 1G /srv/empty", check=True)
    image = host.commit()
    host.copy_out("/srv/sparse", tmp_path / "sparse")
    for path in (os.path.join(image.layers[-1].path, "srv/sparse"), tmp_path / "sparse"):
        info = os.stat(path)
        assert (info.st_size, info.st_blocks < 1000) == (4 << 30, True)
        with open(path, "rb") as file:
            for at in (1 << 20, 3000 << 20):
                file.seek(at - 2)
                assert file.read(6) == b"\0\0x\n\0\0"
    assert os.stat(os.path.join(image.layers[-1].path, "srv/empty")).st_blocks == 0


def test_many_hard_links_are_no_matter(engine, host):
    script = "mkdir /srv/m; cd /srv/m; i=0; while [ $i -lt 1500 ]; do : >a$i; ln a$i b$i; i=$((i+1)); done"
    host.exec(script, check=True)
    with engine.run(host.commit(), command=[]) as container:
        counts = container.exec("cd /srv/m; ls | wc -l; find . -links 2 -name '[ab]*' | wc -l").stdout.split()
        assert counts == ["3000", "3000"]


def test_the_committed_image_has_a_tag_a_command_and_the_environment(engine, host):
    host.write_text("/srv/file", "kept")
    host.commit("committed:now", command=["sh", "-c", "cat /srv/file; echo $MORE"], env={"MORE": "env"})
    with engine.run("committed:now") as container:
        assert container.wait(10) == 0
        assert container.logs() == "keptenv\n"


def test_what_a_container_writes_no_other_sees(engine, host):
    host.exec("echo mine >/srv/file; rm /usr/bin/env")
    with engine.run("capsule/host", command=[]) as other:
        assert other.listdir("/srv") == []
        assert other.exists("/usr/bin/env")
        assert lines(other) == []


def test_a_commit_with_changes(engine, host):
    host.write_text("/srv/seed", "x")
    changes = ['CMD ["cat", "seed"]', "WORKDIR /srv", "ENV A=1", "LABEL for=tests", "EXPOSE 80"]
    image = host.commit(env={"B": "2"}, change=changes)
    run = image.config.config
    assert (run.working_dir, run.labels["for"], run.exposed_ports) == ("/srv", "tests", ("80/tcp",))
    assert {"A": "1", "B": "2"}.items() <= run.env_dict().items()
    with engine.run(image) as container:
        assert (container.wait(timeout=60), container.logs()) == (0, "x")
    for change in ("RUN true", "nonsense"):
        with pytest.raises(UsageError, match="change"):
            host.commit("never", change=[change])
    with pytest.raises(ImageNotFound):
        engine.image("never")


def test_a_commit_of_a_busy_container_holds_nothing_up(engine, host, eventually):
    script = "cd /srv; touch /tmp/going; while :; do rm -f f; echo x >f; rm -f f; mkfifo f; rm -f f; ln -s x f; done"
    process = host.popen(script)
    eventually(lambda: host.exists("/tmp/going"))
    for _ in range(20):
        engine.remove(host.commit())
    process.kill()
    assert host.exec(["echo", "init lives"]).stdout == "init lives\n"
