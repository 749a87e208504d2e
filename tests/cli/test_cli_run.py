"""``capsule run``: our own streams, signals and exit code are those of the main process."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

HOST = "capsule/host"


def left_in(cache: Path) -> list[str]:
    return [str(path) for path in cache.glob("*/tmp/*")]


def test_hello_world(capsule):
    done = capsule("run", "hello-world")
    assert done.returncode == 0
    assert "Hello from" in done.stdout
    assert done.stderr == ""


def test_words_after_the_image_replace_its_command(capsule):
    assert capsule("run", "--rm", HOST, "echo", "--rm", "-x", "--", "-it").stdout == "--rm -x -- -it\n"


def test_options_stop_at_the_image(capsule):
    done = capsule("run", "-ie", "A=1 2", "--env=B", HOST, "sh", "-c", 'echo "$A" "$B" "$1"', "-", "--help")
    assert done.stdout == "1 2  --help\n"


def test_each_stream_arrives_byte_for_byte(start_capsule):
    script = r"printf '\000\377\r\n' ; printf 'no newline' >&2"
    output, errors = start_capsule("run", HOST, "sh", "-c", script).communicate()
    assert (output, errors) == (b"\x00\xff\r\n", b"no newline")


def test_output_goes_straight_into_a_file(capsule, tmp_path):
    with open(tmp_path / "output", "wb") as file:
        done = capsule(
            "run", HOST, "sh", "-c", "head -c 20000000 /dev/zero", stdout=file, stderr=None, capture_output=False
        )
    assert done.returncode == 0
    assert (tmp_path / "output").stat().st_size == 20_000_000


def test_input_is_passed_on_when_asked_for(capsule):
    assert capsule("run", "-i", HOST, "tr", "a-z", "A-Z", input="from outside\n").stdout == "FROM OUTSIDE\n"


def test_else_there_is_no_input(capsule):
    assert capsule("run", HOST, "cat", input="from outside\n").stdout == ""


def test_a_closed_output_is_no_error(cli_environment):
    closed = 'exec "$0" -m pytest_capsule run capsule/host sh -c "echo nobody reads this; exit 5" >&- 2>&-'
    assert subprocess.run(["sh", "-c", closed, sys.executable], env=cli_environment, check=False).returncode == 5


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["/etc/passwd"], 126),
        (["no-such-program"], 127),
    ],
)
def test_the_exit_code_is_that_of_the_container(capsule, command, code):
    done = capsule("run", HOST, *command)
    assert done.returncode == code
    if code in (126, 127):
        assert done.stderr.startswith("capsule: ")
        assert command[0] in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "no-such-image"], "no image 'no-such-image'"),
        (["run", "UPPER/case"], "UPPER/case"),
        (["run", "-d", HOST], "-d is not there: nothing outlives the command"),
        (["run", "-it", HOST], "the input device is not a TTY"),
        (["run", "-v", "/no/such/folder:/x", HOST], "/no/such/folder does not exist"),
        (["run", "-v", "data:/x", HOST], "write ./data for a folder"),
        (["run", "--cap-add", "NONSENSE", HOST], "NONSENSE"),
        (["run", "-e", "=1", HOST], "write it NAME=VALUE"),
        (["run", "--memory", "much", HOST], "memory='much'"),
        (["run", "--commit", "Not A Name", HOST], "Not A Name"),
        (["run", "-u", "nobody-of-that-name", HOST, "true"], "nobody-of-that-name"),
        (["run", "--no-such-option", HOST], "unrecognized arguments: --no-such-option\nSee 'capsule run --help'."),
        (["run", "-e"], "expected one argument"),
    ],
)
def test_an_error_of_capsule_is_a_message_and_exit_code_125(capsule_here, words, message):
    done = capsule_here(*words)
    assert done.returncode == 125
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_how_the_command_is_run(capsule_here, tmp_path):
    (tmp_path / "given").write_text("from the host\n")
    done = capsule_here(
        *("run", "-w", "/var", "-h", "box", "--add-host", "db:10.1.2.3", "--tmpfs", "/mem:size=1m", "--read-only"),
        *("-v", f"{tmp_path}/given:/data/given:ro", "--cap-drop", "ALL", "--entrypoint", "sh", HOST, "-c"),
        "pwd; hostname; grep db /etc/hosts; cat /data/given; touch /mem/new && echo yes; touch /new 2>&- || echo no;"
        "grep CapEff /proc/self/status",
    )
    assert done.stderr == ""
    pwd, hostname, hosts, given, new, refused, capabilities = done.stdout.splitlines()
    assert (pwd, hostname, given, new, refused) == ("/var", "box", "from the host", "yes", "no")
    assert hosts.split() == ["10.1.2.3", "db"]
    assert int(capabilities.split()[1], 16) == 0


def test_an_empty_entrypoint_leaves_the_words(capsule_here):
    assert capsule_here("run", "--entrypoint", "", HOST, "echo", "alone").stdout == "alone\n"


@pytest.mark.identities("root", "range")
def test_another_user(capsule_here):
    assert capsule_here("run", "-u", "nobody", HOST, "id", "-un").stdout == "nobody\n"


def test_a_published_port(start_capsule):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = (
        "import http.server as s\n"
        "server = s.HTTPServer(('', 8000), s.SimpleHTTPRequestHandler)\n"
        "print('ready', flush=True)\n"
        "server.handle_request()\n"
    )
    process = start_capsule("run", "-p", f"{port}:8000", "-w", "/etc", HOST, "python3", "-c", program)
    assert process.stdout.readline() == b"ready\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname") as answer:
        assert len(answer.read().strip()) == 12
    assert process.wait() == 0


def test_what_is_kept_can_be_changed(capsule_here):
    done = capsule_here(
        "run", "--commit", "kept:2", "--change", 'CMD ["cat", "/new"]', HOST, "sh", "-c", "echo new >/new"
    )
    assert done.returncode == 0, done.stderr
    assert capsule_here("run", "kept:2").stdout == "new\n"
    wrong = capsule_here("run", "--commit", "kept:2", "--change", "RUN x", HOST, "echo", "it ran")
    assert (wrong.returncode, wrong.stdout) == (125, ""), "before anything has run"
    assert "change 'RUN x': RUN makes a layer" in wrong.stderr
    assert "add --commit REF" in capsule_here("run", "--change", "USER 1", HOST, "true").stderr


def test_what_was_written_is_kept_with_commit(capsule_here):
    done = capsule_here("run", "--commit", "kept:1", HOST, "sh", "-c", "echo new >/new; exit 4")
    assert done.returncode == 4
    assert "kept as kept:1" in done.stderr
    assert capsule_here("run", "kept:1", "cat", "/new").stdout == "new\n"
    assert capsule_here("run", HOST, "ls", "/new").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_main_process(start_capsule, number):
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    process = start_capsule("run", HOST, "sh", "-c", script)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.communicate() == (f"got {name}\n".encode(), b"")
    assert process.returncode == 9


def test_the_third_signal_is_not_asked_for(start_capsule):
    script = "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done"
    process = start_capsule("run", HOST, "sh", "-c", script)
    assert process.stdout.readline() == b"ready\n"
    for _ in range(2):
        process.terminate()
        assert process.stdout.readline() == b"no\n"
    process.terminate()
    assert process.wait() == 128 + signal.SIGKILL


def test_nothing_outlives_the_main_process(capsule, cli_cache):
    done = capsule("run", HOST, "sh", "-c", "sleep 1000 & echo started")  # the sleep holds our pipe open
    assert done.stdout == "started\n"
    assert left_in(cli_cache) == []


def test_the_reader_of_our_output_has_gone(start_capsule):
    process = start_capsule("run", HOST, "yes")
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait() == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""
