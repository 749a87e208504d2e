import errno
import re
import socket
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from pytest_capsule import wait
from pytest_capsule.errors import ContainerError, ContainerExited, ExecTimeout, UsageError, WaitTimeout


@dataclass
class Result:
    exit_code: int = 0
    stdout: str | bytes = ""
    stderr: str | bytes = ""


@dataclass
class FakeContainer:
    """A container whose ports are ports of the loopback; whatever it says changes when a test's clock moves on."""

    name: str = "db"
    status: str = "running"
    exit_code: int | None = None
    output: str = ""
    ports: dict[int, int] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    results: dict[object, object] = field(default_factory=dict)
    healths: list[str | None] = field(default_factory=lambda: [None])
    health_log: list[object] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)

    def connect(self, port, timeout=None):
        self.timeouts.append(timeout)
        if port not in self.ports:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"Connection refused: port {port} of container {self.name}"
            )
        return socket.create_connection(("127.0.0.1", self.ports[port]), timeout=timeout)

    def logs(self, stream="both"):
        return self.output

    def exec(self, cmd, *, timeout=None):
        self.timeouts.append(timeout)
        result = self.results[tuple(cmd) if isinstance(cmd, list) else cmd]
        if isinstance(result, Exception):
            raise result
        return result

    def exists(self, path):
        return path in self.files

    def health(self):
        return self.healths.pop(0) if len(self.healths) > 1 else self.healths[0]

    def end(self, code):
        self.status, self.exit_code = "exited", code


class Clock:
    """Time that passes only while somebody sleeps; ``events`` maps a pause's number to what happens in it."""

    def __init__(self, **events):
        self.now = 100.0
        self.pauses = []
        self.events = {int(name.removeprefix("after_")): event for name, event in events.items()}

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.pauses.append(seconds)
        if event := self.events.get(len(self.pauses)):
            event()


def until(container, condition, timeout=1.0, clock=None):
    clock = clock or Clock()
    wait.until(container, condition, timeout, clock=clock, sleep=clock.sleep)
    return clock


def look(container, condition):
    """One look, with a second to take."""
    return wait.observe(condition, container, wait.Deadline(101.0, Clock()))


@pytest.fixture
def container():
    return FakeContainer()


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def listen(stack):
    """A listening socket, and its port."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return server, server.getsockname()[1]


def serve(stack, container, answer, port=8000):
    """Answer one connection with ``answer`` on the container's ``port``; returns the list that the request goes to."""
    server, container.ports[port] = listen(stack)
    requests = []

    def run():
        connection, _ = server.accept()
        with connection:
            requests.append(connection.recv(65536))
            connection.sendall(answer)

    thread = threading.Thread(target=run)
    thread.start()
    stack.callback(thread.join)
    return requests


class TestUntil:
    def test_what_is_ready_costs_no_pause(self, container):
        container.files.add("/run/ready")
        assert until(container, wait.file("/run/ready")).pauses == []

    def test_it_looks_again_until_ready(self, container):
        clock = until(
            container, wait.file("/run/ready"), clock=Clock(after_3=lambda: container.files.add("/run/ready"))
        )
        assert clock.pauses == [0.001, 0.002, 0.004]

    @pytest.mark.parametrize(
        ("cost", "pauses"),
        [
            (0, [0.001, 0.002, 0.004, 0.008, 0.01, 0.01, 0.01, 0.01]),
            (0.001, [0.001, 0.002, 0.004, 0.008, 0.016, 0.02, 0.02, 0.02]),
            (0.01, [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05]),
        ],
    )
    def test_pauses_grow_with_what_a_look_costs_and_stop_at_the_deadline(self, container, cost, pauses):
        clock = Clock()

        def look(_):
            clock.now += cost
            return False

        with pytest.raises(WaitTimeout):
            until(container, look, timeout=0.25, clock=clock)
        assert clock.pauses[:8] == pytest.approx(pauses)
        assert 100.25 <= clock.now + 1e-9 <= 100.25 + cost + 2e-9

    def test_it_looks_once_more_at_the_deadline(self, container):
        last = Clock(after_3=lambda: container.files.add("/x"))
        assert until(container, wait.file("/x"), timeout=0.005, clock=last).pauses[-1] == pytest.approx(0.002)

    def test_no_time_at_all_is_one_look(self, container):
        with pytest.raises(WaitTimeout):
            until(container, wait.file("/x"), timeout=0)
        container.files.add("/x")
        until(container, wait.file("/x"), timeout=0)

    def test_a_timeout_says_what_was_waited_for_and_what_was_seen(self, container):
        container.output = "".join(f"line {number}\n" for number in range(30))
        with pytest.raises(WaitTimeout) as caught:
            until(container, wait.port(5432), timeout=2.5)
        error = caught.value
        assert str(error).splitlines()[:4] == [
            "container db was not ready within 2.5 s: waited for port 5432",
            "  seen last: connection refused on port 5432",
            "  last log lines:",
            "    line 10",
        ]
        assert str(error).endswith("\n    line 29")
        assert (error.container, error.timeout, error.seen) == ("db", 2.5, "connection refused on port 5432")

    def test_a_timeout_says_what_was_seen_before_and_when(self, container):
        looks = iter(["", "", *[0] * 7])
        with pytest.raises(WaitTimeout) as caught:
            until(container, lambda _: next(looks, False), timeout=0.25)
        assert str(caught.value).splitlines()[1:] == [
            "  seen last: it returned False",
            "  seen before:",
            "    from 0.00 s: it returned ''",
            "    from 0.00 s: it returned 0",
            "  the log is empty",
        ]

    def test_a_container_that_dies_fails_at_once(self, container):
        container.output = "starting\nno such option\n"
        clock = Clock(after_2=lambda: container.end(64))
        with pytest.raises(ContainerExited) as caught:
            until(container, wait.port(5432), timeout=60, clock=clock)
        assert len(clock.pauses) == 2
        assert str(caught.value).splitlines() == [
            "container db exited with 64 while waiting for port 5432",
            "  seen last: connection refused on port 5432",
            "  last log lines:",
            "    starting",
            "    no such option",
        ]
        assert (caught.value.exit_code, caught.value.logs) == (64, "starting\nno such option")

    @pytest.mark.parametrize("condition", [wait.port(5432), wait.exited(), wait.exited(None)], ids=str)
    def test_a_container_without_a_main_process_that_is_killed_fails_at_once(self, container, condition):
        def kill():
            container.status = "exited"

        clock = Clock(after_2=kill)
        with pytest.raises(ContainerExited, match="container db was killed while waiting for") as caught:
            until(container, condition, timeout=60, clock=clock)
        assert len(clock.pauses) == 2
        assert caught.value.exit_code == 137

    def test_only_the_last_20_lines_are_shown(self, container):
        container.output = "".join(f"{number}\n" for number in range(100))
        container.end(1)
        with pytest.raises(ContainerExited) as caught:
            until(container, wait.port(1))
        assert caught.value.logs.splitlines() == [str(number) for number in range(80, 100)]

    def test_an_empty_log_is_said_to_be_empty(self, container):
        container.end(1)
        with pytest.raises(ContainerExited, match="the log is empty"):
            until(container, wait.port(1))

    def test_what_was_met_before_the_end_counts(self, container):
        container.output = "done\n"
        container.end(0)
        assert until(container, wait.log("done")).pauses == []

    def test_what_happens_between_the_look_and_the_end_is_not_lost(self, container):
        def writes_and_ends_while_looked_at(seen):
            if seen.exit_code is None:
                seen.output = "done\n"
                seen.end(0)
                return False
            return "done" in seen.output

        assert len(until(container, writes_and_ends_while_looked_at).pauses) == 1

    @pytest.mark.parametrize("nonsense", [None, 5432, "ready", ["a"]])
    def test_what_is_no_strategy(self, container, nonsense):
        with pytest.raises(UsageError, match="no wait strategy"):
            until(container, nonsense)


class TestCallable:
    @pytest.mark.parametrize("value", [True, None, 1, "yes"])
    def test_something_true_or_none_is_ready(self, container, value):
        assert until(container, lambda container: value).pauses == []

    @pytest.mark.parametrize("value", [False, 0, "", []])
    def test_something_false_is_not(self, container, value):
        with pytest.raises(WaitTimeout) as caught:
            until(container, lambda container: value)
        assert caught.value.seen == f"it returned {value!r}"

    def test_it_gets_the_container_and_its_name_is_in_the_error(self, container):
        def table_exists(given):
            assert given is container
            return False

        with pytest.raises(WaitTimeout, match="table_exists"):
            until(container, table_exists)

    def test_an_error_of_ours_means_not_yet(self, container):
        def migrated(container):
            raise ContainerError("the migration has not begun")

        with pytest.raises(WaitTimeout) as caught:
            until(container, migrated)
        assert caught.value.seen == "the migration has not begun"

    def test_any_other_error_goes_through(self, container):
        with pytest.raises(ZeroDivisionError):
            until(container, lambda container: 1 / 0)

    def test_a_wrong_use_goes_through(self, container):
        def misused(container):
            raise UsageError("no such keyword")

        with pytest.raises(UsageError, match="no such keyword"):
            until(container, misused)


class TestPort:
    def test_ready_once_something_listens(self, container, stack):
        def open_it():
            _, container.ports[5432] = listen(stack)

        assert len(until(container, wait.port(5432), clock=Clock(after_2=open_it)).pauses) == 2

    def test_the_connection_is_closed_again(self, container, stack):
        server, container.ports[5432] = listen(stack)
        assert look(container, wait.port(5432)).seen == "port 5432 accepts connections"
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b""

    def test_a_connection_may_take_what_is_left_but_never_hang_on(self, container):
        with pytest.raises(WaitTimeout):
            until(container, wait.port(1), timeout=30)
        assert container.timeouts[0] == 10
        assert container.timeouts[-1] == 0.01
        assert sorted(container.timeouts, reverse=True) == container.timeouts

    def test_an_attempt_that_timed_out(self, container, monkeypatch):
        def hang(port, timeout=None):
            raise TimeoutError("timed out")

        monkeypatch.setattr(container, "connect", hang)
        assert look(container, wait.port(1)).seen == "timed out on port 1"

    @pytest.mark.parametrize("number", [0, -1, 65536, "80", True, 1.5])
    def test_what_is_no_port(self, number):
        with pytest.raises(UsageError, match="no port"):
            wait.port(number)


class TestHttp:
    def test_the_request_goes_over_the_containers_own_socket(self, container, stack):
        requests = serve(stack, container, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        seen = look(container, wait.http("/health?full=1", port=8000, headers={"X-Probe": "capsule"}))
        assert (bool(seen), seen.seen) == (True, "status 200 for /health?full=1 on port 8000")
        lines = requests[0].decode().split("\r\n")
        assert lines[0] == "GET /health?full=1 HTTP/1.1"
        assert "Host: localhost:8000" in lines
        assert "X-Probe: capsule" in lines

    def test_another_status_is_not_ready(self, container, stack):
        serve(stack, container, b"HTTP/1.1 503 Starting\r\nContent-Length: 0\r\n\r\n")
        seen = look(container, wait.http("/", port=8000))
        assert (bool(seen), seen.seen) == (False, "status 503, not 200 for / on port 8000")

    def test_a_redirect_is_an_answer_of_its_own(self, container, stack):
        serve(stack, container, b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n")
        assert look(container, wait.http("/", port=8000, status=302))

    def test_several_statuses_can_be_right(self, container, stack):
        serve(stack, container, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        assert look(container, wait.http("/", port=8000, status=(200, 401)))

    def test_something_else_than_http(self, container, stack):
        serve(stack, container, b"SSH-2.0-server\r\n")
        seen = look(container, wait.http("/", port=8000))
        assert not seen
        assert seen.seen.startswith("no HTTP answer for / on port 8000: BadStatusLine")

    def test_a_server_that_hangs_up(self, container, stack):
        serve(stack, container, b"")
        assert "closed connection without response" in look(container, wait.http("/", port=8000)).seen

    def test_a_server_that_does_not_answer_is_left_in_time(self, container, stack):
        _, container.ports[8000] = listen(stack)
        nearly_over = wait.Deadline(100.02, Clock())
        seen = wait.observe(wait.http("/", port=8000), container, nearly_over)
        assert seen.seen == "timed out for / on port 8000"

    def test_nobody_there(self, container):
        assert look(container, wait.http("/", port=8000)).seen == "connection refused for / on port 8000"

    def test_port_80_unless_said_otherwise(self):
        assert str(wait.http("/up")) == "HTTP 200 from /up on port 80"

    @pytest.mark.parametrize("path", ["health", "", "/a b", "/a\r\nX: y", "http://localhost/"])
    def test_what_is_no_path(self, path):
        with pytest.raises(UsageError, match="no path"):
            wait.http(path, port=80)


class TestLog:
    def test_the_pattern_is_searched_line_by_line(self, container):
        container.output = "a\nready to go\n"
        assert look(container, wait.log("^ready"))
        assert look(container, wait.log(re.compile("GO$", re.IGNORECASE | re.MULTILINE)))

    def test_so_many_times(self, container):
        container.output = "ready\nother\n"
        twice = wait.log("ready", times=2)
        assert look(container, twice).seen == "log matched 1 of 2 times; last line: other"
        container.output += "ready\n"
        assert look(container, twice)
        assert str(twice) == "a log line that matches 'ready' 2 times"

    def test_an_empty_log(self, container):
        assert look(container, wait.log("x")).seen == "log matched 0 of 1 times; it is empty"

    def test_what_makes_no_sense(self):
        with pytest.raises(UsageError, match="no regular expression"):
            wait.log("(")
        with pytest.raises(UsageError, match="1 or more"):
            wait.log("x", times=0)


class TestHealthy:
    def test_ready_once_healthy(self, container):
        container.healths = ["starting", "unhealthy", "healthy"]
        assert len(until(container, wait.healthy()).pauses) == 2

    def test_the_last_health_is_in_the_error(self, container):
        container.healths = ["starting", "unhealthy"]
        with pytest.raises(WaitTimeout) as caught:
            until(container, wait.healthy())
        assert caught.value.seen == "health is unhealthy"

    def test_an_image_without_a_healthcheck(self, container):
        with pytest.raises(UsageError, match="has no HEALTHCHECK"):
            until(container, wait.healthy())


class TestCommand:
    def test_a_list_or_a_line_that_ends_with_0(self, container):
        container.results = {("pg_isready", "-q"): Result(0), "test -e /x && true": Result(0)}
        assert look(container, wait.command(["pg_isready", "-q"]))
        assert look(container, wait.command("test -e /x && true"))

    @pytest.mark.parametrize(
        ("result", "seen"),
        [
            (Result(2, "out\n", "first\nno response\n"), "exit code 2: no response"),
            (Result(1, b"raw\xff\n", b""), "exit code 1: raw\ufffd"),
            (Result(3), "exit code 3"),
        ],
    )
    def test_what_it_said_last(self, container, result, seen):
        container.results = {"probe": result}
        found = look(container, wait.command("probe"))
        assert (bool(found), found.seen) == (False, seen)

    def test_a_command_that_hangs_is_stopped_at_the_deadline(self, container):
        hung = ExecTimeout("probe did not end within 1 s", command=["probe"], timeout=1, stdout="", stderr="")
        container.results = {"probe": hung}
        assert look(container, wait.command("probe")).seen == "probe did not end within 1 s"
        assert container.timeouts == [1.0]

    def test_without_a_deadline_it_may_take_for_ever(self, container):
        container.results = {"probe": Result()}
        until(container, wait.command("probe"), timeout=float("inf"))
        assert container.timeouts == [None]

    def test_no_command(self):
        with pytest.raises(UsageError, match="empty"):
            wait.command([])


class TestExited:
    def test_the_end_of_the_main_process(self, container):
        assert len(until(container, wait.exited(), clock=Clock(after_2=lambda: container.end(0))).pauses) == 2

    def test_another_code_fails_at_once(self, container):
        clock = Clock(after_2=lambda: container.end(3))
        with pytest.raises(ContainerExited, match="exited with 3 while waiting for exit with 0") as caught:
            until(container, wait.exited(), timeout=60, clock=clock)
        assert caught.value.exit_code == 3
        assert len(clock.pauses) == 2

    def test_a_code_of_ones_own_and_any_code(self, container):
        container.end(3)
        until(container, wait.exited(code=3))
        until(container, wait.exited(code=None))

    def test_a_container_that_goes_on(self, container):
        with pytest.raises(WaitTimeout) as caught:
            until(container, wait.exited())
        assert caught.value.seen == "the container is running"


class TestTogether:
    def test_all_of_names_the_one_that_is_missing(self, container):
        container.output = "ready\n"
        both = wait.all_of(wait.log("ready"), wait.file("/x"))
        assert str(both) == "a log line that matches 'ready' and file /x"
        assert look(container, both).seen == "/x does not exist"
        container.files.add("/x")
        assert look(container, both).seen == "log matched 1 of 1 times; last line: ready; /x exists"

    def test_any_of_takes_the_first(self, container):
        either = wait.any_of(wait.file("/x"), wait.log("ready"), lambda container: False)
        assert look(container, either).seen == (
            "/x does not exist; log matched 0 of 1 times; it is empty; it returned False"
        )
        container.output = "ready\n"
        assert look(container, either)

    def test_any_of_shares_the_time(self, container):
        look(container, wait.any_of(wait.port(1), wait.port(2)))
        assert container.timeouts == [0.5, 1.0]

    def test_a_dead_container_fails_all_of_at_once_but_any_of_only_when_nothing_is_left(self, container):
        container.end(0)
        with pytest.raises(ContainerExited):
            until(container, wait.all_of(wait.exited(0), wait.port(1)))
        with pytest.raises(ContainerExited):
            until(container, wait.any_of(wait.exited(1), wait.port(1)))
        until(container, wait.any_of(wait.port(1), wait.exited(0)))

    def test_the_end_may_be_a_part_of_what_is_waited_for(self, container):
        container.output = "done\n"
        clock = Clock(after_2=lambda: container.end(0))
        assert len(until(container, wait.all_of(wait.log("done"), wait.exited()), clock=clock).pauses) == 2

    def test_they_nest(self, container):
        container.files.add("/b")
        until(container, wait.all_of(wait.any_of(wait.file("/a"), wait.file("/b")), lambda container: None))

    @pytest.mark.parametrize("combine", [wait.all_of, wait.any_of])
    def test_nothing_or_nonsense_to_combine(self, combine):
        with pytest.raises(UsageError, match="nothing to wait for"):
            combine()
        with pytest.raises(UsageError, match="5 is no wait strategy"):
            combine(wait.file("/x"), 5)


def test_strategies_are_values():
    assert wait.http("/", port=80, headers={"A": "b"}) == wait.http("/", port=80, headers={"A": "b"})
    assert len({wait.port(1), wait.port(1), wait.log("x"), wait.log("x"), wait.command(["a"]), wait.healthy()}) == 4
