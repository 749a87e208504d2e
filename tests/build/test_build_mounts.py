"""RUN --mount: what is there while the command runs, and what of it stays."""

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pytest_capsule import Build, Engine
from pytest_capsule.errors import BuildError, DockerfileError, UsageError
from pytest_capsule.store import collection

HOST = "FROM capsule/host\n"


def layers_above_base(project, image):
    return image.layers[len(project.engine.image("capsule/host").layers) :]


# -- bind --------------------------------------------------------------------------------------------------------------


def test_bind_shows_the_context_as_copy_would_and_leaves_nothing(project):
    project.write("src/app", "app", mode=0o751)
    project.write("src/.git/config", "secret")
    project.write(".dockerignore", "**/.git\n")
    os.symlink("app", project.root / "src/link")
    image = project.build(
        HOST + "WORKDIR /work\n"
        "RUN --mount=target=/deep/in/mount,source=src cd /deep/in/mount && "
        "stat -c '%n %a %u %g' * && ls -A && cat link\n"
        "RUN --mount=source=src/app,target=one cat one; touch one 2>/dev/null || echo read-only\n"
    )
    assert project.output().splitlines() == ["app 751 0 0", "link 777 0 0", "app", "link", "appappread-only"]
    assert len(layers_above_base(project, image)) == 1, "only WORKDIR's: no mount point stays"
    with project.files(image) as container:
        assert container.listdir("/work") == []
        assert not container.exists("/deep")


def test_what_is_written_to_a_bind_mount_is_thrown_away(project):
    project.write("src/file", "old")
    image = project.build(
        HOST + "RUN --mount=target=/src,source=src,rw echo new > /src/file; rm -f /src/x; echo y > /src/y; ls /src\n"
        "RUN --mount=target=/src,source=src cat /src/file; ls /src\n"
    )
    assert project.output() == "file\ny\noldfile\n"
    assert (project.root / "src/file").read_text() == "old"
    assert layers_above_base(project, image) == ()


def test_bind_from_a_stage_and_from_an_image(project):
    project.write("file", "of the context")
    base = project.build("FROM scratch\nCOPY file /in/image\n", tag="mounts/base:1")
    project.build(
        "FROM scratch AS stage\nCOPY file /in/stage\n"
        + HOST
        + "RUN --mount=from=stage,target=/a --mount=from=mounts/base:1,source=in/image,target=/b cat /a/in/stage /b\n"
    )
    assert project.output() == "of the contextof the context"
    assert base.tags == ("mounts/base:1",)


def test_bind_from_the_host_s_image_shows_all_of_it(project):
    project.build(HOST + "RUN --mount=from=capsule/host,target=/other ls /other/usr/bin/env /other/etc/passwd\n")
    assert project.output() == "/other/etc/passwd\n/other/usr/bin/env\n"


def test_the_key_takes_what_is_in_a_bind_mount(project):
    project.write("src/file", "one")
    project.write("other", "x")
    text = HOST + "RUN --mount=target=/src,source=src cat /src/file\n"
    project.build(text)
    project.write("other", "changed")
    os.utime(project.root / "src/file", (1, 1))
    project.build()
    assert project.kinds() == ["cached"], "neither a time nor what is not mounted counts"
    project.write("src/file", "two")
    project.build()
    assert (project.kinds(), project.output()) == (["done"], "two")


def test_the_key_takes_what_is_in_a_stage_and_not_how_it_came_there(project):
    project.write("file", "same")
    text = "FROM scratch AS stage\nCOPY {} /file\n" + HOST + "RUN --mount=from=stage,target=/m cat /m/file\n"
    project.write("other", "same")
    project.build(text.format("file"))
    assert project.kinds() == ["done", "done"]
    project.build(text.format("other"))
    assert project.kinds() == ["done", "cached"]


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ("source=missing,target=/x", "/missing: No such file or directory in the build context"),
        ("from=stage,source=missing,target=/x", "/missing: No such file or directory in stage"),
        ("source=ignored,target=/x", "/ignored: excluded by .dockerignore in the build context"),
        ("target=/", "invalid mount target"),
        ("type=cache,source=sub,target=/x", "a cache begins empty"),
        ("type=ssh,source=x", "ssh does not support source"),
        ("type=bnd,target=/x", "unsupported mount type"),
        ("from=no-such-image:1,target=/x", "no image 'no-such-image:1'"),
    ],
)
def test_a_mount_that_cannot_be_had(project, mount, reason):
    project.write("ignored")
    project.write(".dockerignore", "ignored\n")
    with pytest.raises(DockerfileError, match="Dockerfile:4") as caught:
        project.build(f"FROM scratch AS stage\nWORKDIR /made\n{HOST}RUN --mount={mount} true\n")
    assert reason in str(caught.value)


# -- cache -------------------------------------------------------------------------------------------------------------


def test_a_cache_stays_from_build_to_build_and_never_in_a_layer(project):
    step = "RUN --mount=type=cache,target=/var/cache/stays echo {} >> /var/cache/stays/log; cat /var/cache/stays/log\n"
    first = project.build(HOST + step.format("one"))
    project.build(HOST + step.format("two"))
    assert project.output() == "one\ntwo\n"
    assert layers_above_base(project, first) == ()
    project.build(HOST + step.format("two"))
    assert project.kinds() == ["cached"], "what a cache holds is no part of a key"


def test_a_namespace_keeps_the_caches_of_builds_apart(project):
    text = HOST + "ARG N\nRUN --mount=type=cache,target=/spaced echo $N >> /spaced/log; cat /spaced/log\n"
    for space in ("one", "two"):
        project.build(text, build_args={"N": space, "BUILDKIT_CACHE_MOUNT_NS": space})
        assert project.output() == f"{space}\n"
    project.build(text, build_args={"N": "again", "BUILDKIT_CACHE_MOUNT_NS": "one"})
    assert project.output() == "one\nagain\n"


def test_without_cache_a_cache_too_begins_anew_once_in_the_build(project):
    mount = "--mount=type=cache,target=/var/cache/anew"
    text = HOST + "ARG N\n" + 2 * f"RUN {mount} echo $N >> /var/cache/anew/log; cat /var/cache/anew/log\n"
    project.build(text, build_args={"N": "one"})
    assert project.output() == "one\none\none\n"
    project.build(text, build_args={"N": "two"}, no_cache=True)
    assert project.output() == "two\ntwo\ntwo\n"
    project.build(text, build_args={"N": "three"})
    assert project.output().splitlines()[:3] == ["two", "two", "three"]


def test_who_uses_a_cache_goes_on_when_a_build_without_cache_takes_another(project):
    text = f"{HOST}ARG N\nRUN --mount=type=cache,id={project.root}busy,target=/c echo $N >> /c/log; cat /c/log\n"
    project.build(text, build_args={"N": "one"})
    caches = Path(project.engine._store.root, "caches")
    (log,) = (path for path in caches.glob("*/0/fs/tree/log") if path.read_text() == "one\n")
    with subprocess.Popen(["flock", "--shared", str(log.parents[2]), "cat"], stdin=subprocess.PIPE) as user:
        while subprocess.run(["flock", "--nonblock", str(log.parents[2]), "true"]).returncode == 0:
            assert user.poll() is None
        project.build(text, build_args={"N": "two"}, no_cache=True)
        assert project.output() == "two\n"
        project.build(text, build_args={"N": "three"})
        assert project.output() == "two\nthree\n"
        assert log.read_text() == "one\n"
        user.communicate()
    project.build(text, build_args={"N": "four"})
    assert project.output() == "two\nthree\nfour\n"
    assert not log.exists(), "what nobody uses any more is gone"


def test_caches_are_told_apart_by_id_and_beginning(project):
    project.write("seed/file", "seed")
    project.build(
        "FROM scratch AS seed\nCOPY seed /seed\n" + HOST + "RUN --mount=type=cache,target=/apart echo x > /apart/mine\n"
        "RUN --mount=type=cache,target=/elsewhere,id=/apart ls /elsewhere\n"
        "RUN --mount=type=cache,target=/apart,id=other ls /apart\n"
        "RUN --mount=type=cache,target=/apart,from=seed,source=seed ls /apart; echo y > /apart/added\n"
        "RUN --mount=type=cache,target=/apart,from=seed,source=seed,ro ls /apart; "
        "touch /apart/z 2>/dev/null || echo ro\n"
    )
    assert project.output() == "mine\nfile\nadded\nfile\nro\n"


@pytest.mark.identities("root", "range")
def test_a_cache_belongs_to_whom_it_is_said_to(project):
    project.build(
        HOST + "USER 1000:1001\n"
        "RUN --mount=type=cache,target=/owned,uid=1000,gid=1001,mode=0700 "
        "stat -c '%u %g %a' /owned; touch /owned/mine\n"
        "RUN --mount=type=cache,target=/owned,uid=1000,gid=1001,mode=0700 stat -c '%u %n' /owned/*\n"
    )
    assert project.output() == "1000 1001 700\n1000 /owned/mine\n"


def run_at_once(project, texts):
    """Build each text in a thread; all their RUNs meet at a FIFO of a shared folder before any ends."""
    outputs, failures = {}, []

    def build(number, text):
        root = project.root / str(number)
        root.mkdir()
        (root / "Dockerfile").write_text(text)
        lines = []
        try:
            project.engine.build(
                root, progress=lambda event: lines.append(event.text if event.kind == "output" else "")
            )
        except Exception as error:
            failures.append(error)
        outputs[number] = "".join(lines)

    threads = [threading.Thread(target=build, args=one) for one in enumerate(texts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    return [outputs[number] for number in range(len(texts))]


# Each leaves its name in a cache that all share, and goes on when it has seen the other's.
MEET = (
    "RUN --mount=type=cache,id={meeting},target=/meet --mount=type=cache,id={id},target=/used,sharing={sharing} "
    "echo {name} >> /used/log; touch /meet/{name}; n=0; "
    "until [ -e /meet/{other} ] || [ $n -gt 600 ]; do sleep 0.1; n=$((n+1)); done; cat /used/log\n"
)


def meeting(project, sharing):
    names = {"id": f"{project.root}{sharing}", "meeting": f"{project.root}meet{sharing}", "sharing": sharing}
    return run_at_once(
        project,
        [HOST + MEET.format(name=one, other=other, **names) for one, other in (("a", "b"), ("b", "a"))],
    )


def test_a_shared_cache_is_one_for_steps_at_the_same_time(project):
    for seen in meeting(project, "shared"):
        assert sorted(seen.split()) == ["a", "b"]


def test_a_private_cache_is_another_for_each_step_at_the_same_time(project):
    assert meeting(project, "private") == ["a\n", "b\n"]


def test_a_locked_cache_is_waited_for(project):
    """Two that write and then read for a while: if they ran at the same time, one would see the other half done."""
    step = (
        f"RUN --mount=type=cache,id={project.root}lock,target=/used,sharing=locked "
        "[ ! -e /used/busy ] && touch /used/busy && sleep 0.5 && rm /used/busy && echo {} alone\n"
    )
    assert run_at_once(project, [HOST + step.format(name) for name in "ab"]) == ["a alone\n", "b alone\n"]


def test_one_step_may_mount_a_locked_cache_twice(project):
    mount = f"--mount=type=cache,id={project.root}twice,sharing=locked,target="
    project.build(f"{HOST}RUN {mount}/a {mount}/b touch /a/file; ls /b\n")
    assert project.output() == "file\n"


def test_a_locked_cache_is_locked_across_processes(project):
    """Another process has it: this build goes on when that one ends."""
    project.build(f"{HOST}RUN --mount=type=cache,id={project.root},target=/c,sharing=locked echo first > /c/file\n")
    caches = Path(project.engine._store.root, "caches")
    (lock,) = (path.parents[2] for path in caches.glob("*/0/fs/tree/file") if path.read_text() == "first\n")
    holder = subprocess.Popen(["flock", str(lock), "cat"], stdin=subprocess.PIPE)
    try:
        while subprocess.run(["flock", "--nonblock", str(lock), "true"]).returncode == 0:
            assert holder.poll() is None
        done = threading.Event()
        text = f"{HOST}RUN --mount=type=cache,id={project.root},target=/c,sharing=locked cat /c/file\n"
        build = threading.Thread(target=lambda: (project.build(text), done.set()))
        build.start()
        assert not done.wait(1)
    finally:
        holder.communicate()
    build.join(60)
    assert project.output() == "first\n"


def test_pruning_the_build_cache_takes_the_caches_that_nobody_uses(project, tmp_path):
    """In a store of its own, for it empties the build cache."""
    step = "RUN --mount=type=cache,target=/c echo {} >> /c/log; cat /c/log\n"
    with Engine(cache_dir=tmp_path / "store") as project.engine:
        project.build(HOST + step.format("one"))
        assert project.engine.prune().caches == 0
        folder = next(Path(project.engine._store.root, "caches").glob("*/0"))
        with subprocess.Popen(["flock", str(folder), "cat"], stdin=subprocess.PIPE) as user:
            while subprocess.run(["flock", "--nonblock", str(folder), "true"]).returncode == 0:
                assert user.poll() is None
            assert project.engine.prune(build_cache=True).caches == 0
            user.communicate()
        assert project.engine.prune(build_cache=True).caches == 1
        project.build(HOST + step.format("two"))
        assert project.output() == "two\n"


def test_caches_count_for_what_is_kept_and_those_go_first_that_were_not_used_for_longest(project, tmp_path):
    steps = "".join(
        f"RUN --mount=type=cache,target=/c,id={name} head -c {size}000 /dev/zero > /c/file\n"
        for name, size in (("old", 30), ("used", 20), ("lent", 10))
    )
    with Engine(cache_dir=tmp_path / "store") as project.engine:
        project.build(HOST + steps)
        before = collection.size(project.engine._store)
        caches = Path(project.engine._store.root, "caches")
        folders = {sum(file.stat().st_size for file in folder.rglob("file")): folder for folder in caches.glob("*/0")}
        for size, seconds in ((30_000, 300), (20_000, 200), (10_000, 400)):
            os.utime(folders[size], (time.time() - seconds,) * 2)
        with open_locked(folders[10_000]):
            assert project.engine.prune(build_cache=True, keep=before - 1).caches == 1
            assert (folders[30_000].exists(), folders[20_000].exists()) == (False, True)
            project.build(HOST + steps.splitlines()[1] + " && true\n")
            assert folders[20_000].stat().st_mtime > time.time() - 100, "it was lent again"
            gone = project.engine.prune(build_cache=True, keep=0)
        assert (gone.caches, gone.size >= 20_000, folders[10_000].exists()) == (1, True, True)


@contextlib.contextmanager
def open_locked(folder):
    fd = os.open(folder, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(fd)


# -- tmpfs -------------------------------------------------------------------------------------------------------------


def test_tmpfs_of_a_size_leaves_nothing(project):
    image = project.build(
        HOST + "RUN --mount=type=tmpfs,target=/usr/local/temporary,size=1m stat -f -c '%T %b %S' /usr/local/temporary; "
        "echo x > /usr/local/temporary/file\n"
    )
    kind, blocks, size = project.output().split()
    assert (kind, int(blocks) * int(size)) == ("tmpfs", 1 << 20)
    assert layers_above_base(project, image) == ()


def test_mounts_within_mounts_come_in_the_order_of_their_depth(project):
    project.write("file", "f")
    project.build(
        HOST
        + "RUN --mount=source=file,target=/top/inner/file --mount=type=tmpfs,target=/top cat /top/inner/file; ls /top\n"
    )
    assert project.output() == "finner\n"


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_is_a_file_a_variable_or_both(project, tmp_path):
    (tmp_path / "file").write_bytes(b"from a \xff file\n")
    image = project.build(
        HOST + "RUN --mount=type=secret,id=value stat -c '%a %u %g' /run/secrets/value; cat /run/secrets/value\n"
        "RUN --mount=type=secret,id=bytes,target=/etc/deep/token,mode=0444 "
        "stat -c %a /etc/deep/token; cat /etc/deep/token\n"
        "RUN --mount=type=secret,id=value,env=TOKEN echo $TOKEN; ls /run/secrets 2>/dev/null || echo no file\n"
        "RUN --mount=type=secret,id=value,env=TOKEN,target=/t echo $TOKEN; cat /t\n"
        "RUN --mount=type=secret,id=file wc -c < /run/secrets/file; ! touch /run/secrets/file 2>/dev/null && echo ro\n",
        secrets={"value": "s3cret\n", "bytes": b"bytes\n", "file": tmp_path / "file"},
    )
    assert project.output() == "400 0 0\ns3cret\n444\nbytes\ns3cret\nno file\ns3cret\ns3cret\n14\nro\n"
    assert layers_above_base(project, image) == (), "no layer has even the place where it was"


@pytest.mark.identities("root", "range")
def test_a_secret_belongs_to_whom_it_is_said_to(project):
    project.build(
        HOST + "USER 1000\nRUN --mount=type=secret,id=s,uid=1000,gid=1001 "
        "stat -c '%a %u %g' /run/secrets/s; cat /run/secrets/s\n"
        "RUN --mount=type=secret,id=s cat /run/secrets/s 2>/dev/null || echo not for me\n",
        secrets={"s": "mine\n"},
    )
    assert project.output() == "400 1000 1001\nmine\nnot for me\n"


def test_no_secret_is_anywhere_in_the_store(project):
    canary = "canary-7f3a9c-of-the-secret"
    project.build(
        HOST + 'RUN --mount=type=secret,id=s,env=S --mount=type=secret,id=s test -n "$S" && echo > /made\n',
        secrets={"s": canary},
    )
    found = subprocess.run(["grep", "-rl", canary, project.engine._store.root], capture_output=True, text=True)
    assert found.stdout == ""


def test_another_value_of_a_secret_is_no_other_step(project):
    text = HOST + "RUN --mount=type=secret,id=s cat /run/secrets/s\n"
    project.build(text, secrets={"s": "one"})
    project.build(text, secrets={"s": "two"})
    assert project.kinds() == ["cached"]


def test_a_secret_that_is_missing(project):
    project.build(HOST + "RUN --mount=type=secret,id=absent ls /run/secrets/absent || echo none\n")
    assert project.output().endswith("none\n")
    with pytest.raises(BuildError, match="secret absent: not found") as caught:
        project.build(HOST + "RUN --mount=type=secret,id=absent,required true\n", secrets={"other": "x"})
    assert "--secret id=absent,src=FILE" in caught.value.hint
    assert "it was given: other" in caught.value.hint
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "its value is a int"),
        (None, "a NoneType"),
        (Path("/no/such/secret"), "there is no file /no/such/secret"),
        ("x" * 512_001, "larger"),
    ],
)
def test_what_is_no_secret(project, value, reason):
    with pytest.raises((UsageError, BuildError), match=reason):
        project.build(HOST + "RUN --mount=type=secret,id=s true\n", secrets={"s": value})


# -- ssh ---------------------------------------------------------------------------------------------------------------


def test_an_agent_lists_and_signs_and_keeps_its_keys(project, agent, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    image = project.build(
        HOST + "RUN --mount=type=ssh echo $SSH_AUTH_SOCK; stat -c '%a %u %F' $SSH_AUTH_SOCK; "
        "ssh-add -l; ssh-add -L > /key.pub; "
        "echo text | ssh-keygen -q -Y sign -f /key.pub -n file > /signature && head -1 /signature; "
        "ssh-add -D 2>/dev/null || echo kept\n"
        "RUN --mount=type=ssh,id=other,target=/run/agent.sock echo $SSH_AUTH_SOCK; ssh-add -l | wc -l\n",
        ssh=["default", f"other={agent}"],
    )
    lines = project.output().splitlines()
    assert lines[:2] == ["/run/buildkit/ssh_agent.0", "600 0 socket"]
    assert "the key" in lines[2]
    assert lines[3:] == ["-----BEGIN SSH SIGNATURE-----", "kept", "/run/agent.sock", "1"]
    with project.files(image) as container:
        assert not container.exists("/run/buildkit")
    assert b"the key" in subprocess.run(["ssh-add", "-l"], capture_output=True).stdout


def test_an_agent_that_is_missing(project, tmp_path, monkeypatch):
    project.build(HOST + "RUN --mount=type=ssh echo ${SSH_AUTH_SOCK:-none}\n")
    assert project.output() == "none\n"
    with pytest.raises(BuildError, match="no SSH agent for id default") as caught:
        project.build(HOST + "RUN --mount=type=ssh,required true\n")
    assert "--ssh default" in caught.value.hint
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(UsageError, match="SSH_AUTH_SOCK is not set"):
        project.build(ssh=["default"])
    (tmp_path / "key").write_text("a key")
    with pytest.raises(UsageError, match="is no socket") as caught:
        project.build(ssh=[f"id={tmp_path / 'key'}"])
    assert "ssh-add" in caught.value.hint


def test_an_agent_s_socket_may_be_gone_when_it_is_asked(project, tmp_path):
    path = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert stat.S_ISSOCK(path.stat().st_mode)
    project.build(HOST + "RUN --mount=type=ssh ssh-add -l || echo $?\n", ssh=[f"default={path}"])
    assert project.output() == "error fetching identities: agent refused operation\n1\n"


def test_secrets_and_agents_of_a_marker_s_build(project, agent):
    project.write(
        "Dockerfile",
        HOST + "RUN --mount=type=secret,id=s --mount=type=ssh ssh-add -l > /keys; wc -c < /run/secrets/s > /count\n",
    )
    build = Build(project.root, secrets={"s": "four"}, ssh=[f"default={agent}"])
    with project.engine.run(build=build, command=[]) as container:
        assert container.read_text("/count") == "4\n"
        assert "the key" in container.read_text("/keys")


# -- network and security ----------------------------------------------------------------------------------------------


def test_network_and_security_are_those_of_the_step(project):
    interfaces = len(os.listdir("/sys/class/net"))
    project.build(
        HOST + "RUN --network=none ls /sys/class/net | wc -l\nRUN --network=host ls /sys/class/net | wc -l\n"
        "RUN ls /sys/class/net | wc -l\n"
        "RUN grep CapEff /proc/self/status | cut -f2\nRUN --security=insecure grep CapEff /proc/self/status | cut -f2\n"
    )
    none, host, default, few, all_ = project.output().split()
    assert (none, host, default) == ("1", str(interfaces), str(interfaces))
    assert int(few, 16).bit_count() == 14 < int(all_, 16).bit_count()


def test_a_layer_has_what_the_command_wrote_beside_a_mount_point(project, names_in):
    image = project.build(
        HOST
        + "RUN --mount=type=tmpfs,target=/new/folder/mount echo x > /new/folder/file; echo y > /new/folder/mount/gone\n"
        "RUN --mount=type=tmpfs,target=/etc/mount chmod 700 /etc/mount\n"
        "RUN --mount=type=tmpfs,target=/etc/mount echo z > /etc/written\n"
    )
    assert [names_in(layer) for layer in layers_above_base(project, image)] == [
        ["new", "new/folder", "new/folder/file"],
        ["etc", "etc/written"],
    ]
