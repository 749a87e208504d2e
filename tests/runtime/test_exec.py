"""``container.exec``: what goes in, what comes out, and what it says when it cannot."""

from __future__ import annotations

import hashlib
import io
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_capsule.errors import CommandNotFound, ContainerError, ExecError, ExecTimeout, UsageError

TEN_MEGABYTES = 10 << 20


def test_a_list_runs_as_it_is_and_a_string_in_a_shell(host):
    assert host.exec(["echo", "$HOME; *"]).stdout == "$HOME; *\n"
    assert host.exec("echo $HOME; exit 3") == type(host.exec("true"))(3, "/root\n", "")


def test_an_empty_command_is_a_usage_error(host):
    with pytest.raises(UsageError, match="name of a program"):
        host.exec([])


def test_stdout_and_stderr_come_apart(host):
    result = host.exec("echo out; echo err >&2; exit 7")
    assert (result.exit_code, result.stdout, result.stderr) == (7, "out\n", "err\n")


def test_stdin_is_a_text_bytes_a_file_or_nothing(host, tmp_path):
    (tmp_path / "file").write_bytes(b"from a file")
    assert host.exec(["cat"], stdin="tëxt").stdout == "tëxt"
    assert host.exec(["cat"], stdin=b"\x00\xff", text=False).stdout == b"\x00\xff"
    with open(tmp_path / "file") as file:
        assert host.exec(["cat"], stdin=file).stdout == "from a file"
    assert host.exec(["cat"]).stdout == ""


def test_ten_megabytes_go_in_and_out_at_once(host):
    data = os.urandom(1 << 16) * (TEN_MEGABYTES >> 16)
    result = host.exec("tee /dev/stderr", stdin=data, text=False, timeout=60)
    assert result.exit_code == 0
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()
    assert hashlib.sha256(result.stderr).digest() == hashlib.sha256(data).digest()


def test_a_command_that_does_not_read_its_stdin_still_ends(host):
    assert host.exec(["true"], stdin=b"x" * TEN_MEGABYTES, timeout=20).exit_code == 0


def test_bytes_that_are_no_text_are_replaced_or_kept(host):
    assert host.exec(["printf", r"a\377b"]).stdout == "a�b"
    assert host.exec(["printf", r"a\377b"], text=False).stdout == b"a\xffb"


def test_the_environment_is_the_images_and_what_is_given(engine, monkeypatch):
    monkeypatch.setenv("CAPSULE_TEST_SECRET", "leaked")
    with engine.run("capsule/host", command=[], env={"A": "1", "B": 2}, hostname="box") as container:
        lines = container.exec(["env"], env={"B": "3", "C": "x=y"}).stdout.splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    assert environment.pop("PATH")
    assert environment == {"A": "1", "B": "3", "C": "x=y", "HOME": "/root", "HOSTNAME": "box"}


@pytest.mark.identities("root", "range")
def test_the_user_is_a_name_a_number_or_either_with_a_group(debian):
    def who(user):
        return debian.exec("id -u; id -g; id -G; echo $HOME", user=user).stdout.split()

    assert who("root") == ["0", "0", "0", "/root"]
    assert who("daemon") == ["1", "1", "1", "/usr/sbin"]
    assert who("1") == ["1", "1", "1", "/usr/sbin"]
    assert who("12345") == ["12345", "0", "0", "/"]
    assert who("daemon:mail") == ["1", "8", "8", "/usr/sbin"]
    assert who("12345:54321") == ["12345", "54321", "54321", "/"]


@pytest.mark.identities("root", "range")
def test_a_user_has_the_groups_that_the_image_gives_it_now(debian):
    assert debian.exec(["id", "-G"], user="daemon").stdout.split() == ["1"]
    with debian.open("/etc/group", "a") as file:
        file.write("crew:x:777:daemon,root\n")
    assert debian.exec(["id", "-G"], user="daemon").stdout.split() == ["1", "777"]
    assert debian.exec(["id", "-G"], user="root").stdout.split() == ["0", "777"]
    assert debian.exec(["id", "-G"]).stdout.split() == ["0", "777"]


@pytest.mark.identities("root", "range")
def test_a_user_writes_to_its_own_standard_streams(debian):
    result = debian.exec("echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin", user="daemon", stdin="in")
    assert (result.stdout, result.stderr) == ("out\nin", "err\n")


@pytest.mark.identities("root", "range")
def test_an_ordinary_user_has_no_capabilities(debian):
    status = debian.exec("grep -E '^Cap(Prm|Eff|Inh|Amb)' /proc/self/status", user="daemon").stdout
    assert {int(line.split()[1], 16) for line in status.splitlines()} == {0}


@pytest.mark.identities("single")
def test_another_user_needs_a_range_of_ids(debian):
    with pytest.raises(ContainerError, match="range of ids") as caught:
        debian.exec(["true"], user="daemon")
    assert "subuid" in caught.value.hint


@pytest.mark.identities("single")
def test_root_is_root_whatever_groups_the_image_gives_it(debian):
    with debian.open("/etc/group", "a") as file:
        file.write("crew:x:777:root\n")
    assert debian.exec(["id", "-u"], user="root").stdout == "0\n"


def test_an_unknown_user_or_group_is_named(host):
    with pytest.raises(ContainerError, match="no user 'nobody-like-that' in the image"):
        host.exec(["true"], user="nobody-like-that")
    with pytest.raises(ContainerError, match="no group 'no-such-group' in the image"):
        host.exec(["true"], user="root:no-such-group")
    for user in ("4294967296", "0:99999999999999999999"):
        with pytest.raises(ContainerError, match=f"as user '{user}'.*ids go up to 2147483647"):
            host.exec(["true"], user=user)


def test_the_working_directory_is_the_images_or_what_is_given(engine):
    with engine.run("capsule/host", command=[], workdir="/srv/made/anew") as container:
        assert container.exec(["pwd"]).stdout == "/srv/made/anew\n"
        assert container.exec(["pwd"], workdir="/etc").stdout == "/etc\n"
        assert container.exec("mkdir sub && cd sub && pwd").stdout == "/srv/made/anew/sub\n"
        assert container.exec(["pwd"], workdir="sub").stdout == "/srv/made/anew/sub\n"


def test_a_missing_working_directory_is_named(host):
    with pytest.raises(ContainerError, match="working directory '/nowhere': No such file") as caught:
        host.exec(["true"], workdir="/nowhere")
    assert not isinstance(caught.value, CommandNotFound)
    host.write_text("/tmp/file", "")
    with pytest.raises(ContainerError, match="working directory '/tmp/file': Not a directory"):
        host.exec(["true"], workdir="/tmp/file")


def test_a_working_directory_that_is_a_magic_link_leads_nowhere(host):
    host.exec("ln -s /proc/self/fd/0 /tmp/out; ln -s /proc/1/cwd /tmp/init")
    for path in ("/tmp/out", "/tmp/init", "/proc/self/fd/3", "/proc/1/root"):
        with pytest.raises(ContainerError, match="working directory"):
            host.exec(["true"], workdir=path)


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program", "/etc/passwd/program"])
def test_a_missing_program_is_127(host, name):
    with pytest.raises(CommandNotFound, match="no such program") as caught:
        host.exec([name, "word"])
    assert (caught.value.command, caught.value.exit_code, caught.value.container) == (name, 127, host.name)


def test_what_cannot_be_executed_is_126(host):
    host.write_text("/tmp/data", "no program")
    for name, reason in (("/tmp/data", "Permission denied"), ("/tmp", "Permission denied")):
        with pytest.raises(CommandNotFound, match=reason) as caught:
            host.exec([name])
        assert caught.value.exit_code == 126
    host.exec("printf '\\0\\0\\0' >/tmp/data; chmod +x /tmp/data", check=True)
    with pytest.raises(CommandNotFound, match="Exec format error"):
        host.exec(["/tmp/data"])


def test_words_that_no_program_can_get_are_refused(host):
    with pytest.raises(ContainerError, match="null byte"):
        host.exec(["echo", "a\0b"])
    with pytest.raises(ContainerError, match="environment variable name"):
        host.exec(["env"], env={"A=B": "1"})
    assert host.exec(["echo", "still here"]).stdout == "still here\n"


def test_check_raises_with_both_outputs(host):
    assert host.exec(["true"], check=True).exit_code == 0
    with pytest.raises(ExecError) as caught:
        host.exec(["sh", "-c", "echo out; echo err >&2; exit 9"], check=True)
    error = caught.value
    assert (error.exit_code, error.stdout, error.stderr) == (9, "out\n", "err\n")
    assert error.command == ("sh", "-c", "echo out; echo err >&2; exit 9")
    assert "exit code 9" in str(error) and "out\n" in str(error) and "err\n" in str(error)


def test_a_signal_is_128_and_its_number(host):
    assert host.exec("kill -TERM $$").exit_code == 128 + signal.SIGTERM
    assert host.exec("kill -KILL $$").exit_code == 137


def test_a_timeout_kills_the_command_and_its_children(host, eventually):
    with pytest.raises(ExecTimeout, match=r"did not end within 0\.3 s") as caught:
        host.exec("echo before; sleep 1000 & sleep 2000", timeout=0.3)
    assert caught.value.stdout == "before\n"
    assert caught.value.timeout == 0.3
    eventually(lambda: [one["name"] for one in host.top()] == ["init"])


def test_a_timeout_ends_a_command_that_prints_for_ever(host):
    with pytest.raises(ExecTimeout) as caught:
        host.exec(["yes"], timeout=0.2, text=False)
    assert caught.value.stdout.startswith(b"y\ny\n")


def test_a_timeout_that_is_not_reached_is_no_matter(host):
    assert host.exec(["echo", "quick"], timeout=20).stdout == "quick\n"


def test_a_large_argument_list_and_environment_arrive(host):
    words = [f"{number:05d}" * 20 for number in range(2000)]  # 200 KB: more than one message holds
    result = host.exec(["printf", "%s\n", *words], env={"BIG": "b" * 100_000})
    assert result.stdout.split() == words
    assert host.exec("echo ${#BIG}", env={"BIG": "b" * 100_000}).stdout == "100000\n"


def test_more_than_a_program_can_get_is_a_clear_error(host):
    with pytest.raises(CommandNotFound, match="Argument list too long") as caught:
        host.exec(["true", "x" * (1 << 20)])
    assert caught.value.exit_code == 126
    with pytest.raises(CommandNotFound, match="Argument list too long"):
        host.exec(["true", *["x" * 1000] * 10_000])


def test_a_daemon_that_keeps_the_output_open_holds_nothing_up(host):
    result = host.exec("echo started; sleep 1000 &", timeout=10)
    assert (result.exit_code, result.stdout) == (0, "started\n")


def test_a_daemon_that_prints_for_ever_holds_nothing_up(host):
    result = host.exec("yes & echo started >&2", timeout=20)
    assert (result.exit_code, result.stderr) == (0, "started\n")


def test_twenty_threads_at_once_each_get_their_own(host):
    def ask(number):
        return host.exec(["sh", "-c", f"cat; exit {number}"], stdin=f"{number}\n" * 1000)

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(ask, range(60)))
    assert [result.exit_code for result in results] == list(range(60))
    assert all(result.stdout == f"{number}\n" * 1000 for number, result in enumerate(results))


def test_commands_go_on_after_the_main_process_has_exited(engine):
    with engine.run("capsule/host", command=["true"]) as container:
        assert container.wait(10) == 0
        assert container.status == "exited"
        assert container.exec(["echo", "still"]).stdout == "still\n"


def test_nothing_runs_in_a_closed_container(engine):
    container = engine.run("capsule/host", command=[])
    container.close()
    container.close()
    assert container.status == "removed"
    with pytest.raises(ContainerError, match="is closed"):
        container.exec(["true"])
    with pytest.raises(ContainerError, match="is closed"):
        container.read_text("/etc/hostname")
    assert container.top() == []


def test_a_container_whose_init_was_killed_says_so(engine, eventually):
    with engine.run("capsule/host", command=["sleep", "1000"]) as container:
        os.kill(container.init_pid, signal.SIGKILL)
        assert container.wait(10) == 137
        eventually(lambda: container.status == "exited")
        with pytest.raises(ContainerError, match="is gone"):
            container.exec(["true"])
        with pytest.raises(ContainerError, match="is gone"):
            container.read_text("/etc/hostname")
        with pytest.raises(ContainerError, match="is gone"):
            container.popen(["sh"], tty=True)
        eventually(lambda: not _has_pid(container))  # never -1, which kill(2) takes for everybody
        assert container.top() == []


def _has_pid(container):
    try:
        assert container.pid > 0
        assert container.init_pid > 0
    except ContainerError as error:
        assert "is gone" in error.message
        return False
    return True


def test_a_container_that_is_closed_or_killed_meanwhile_ends_the_command(engine, eventually, in_thread):
    for end in (lambda one: one.close(), lambda one: os.kill(one.init_pid, signal.SIGKILL)):
        with engine.run("capsule/host", command=[]) as container:
            result = in_thread(lambda container=container: container.exec("touch /tmp/there; sleep 1000"))
            eventually(lambda container=container: container.exists("/tmp/there"))
            end(container)
            with pytest.raises(ContainerError, match="went while"):
                result()


def test_a_script_of_the_test_runs_from_stdin(host):
    script = io.StringIO("import sys\nprint(sys.argv[1] * 2)\n")
    assert host.exec(["python3", "-", "ab"], stdin=script.read()).stdout == "abab\n"
