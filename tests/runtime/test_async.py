"""Commands, waiting and logs awaited, under asyncio, trio and anyio: the event loop goes on meanwhile."""

import asyncio
import threading
import time

import anyio
import pytest
import trio

from pytest_capsule import ExecError, UsageError, wait


def run_anyio_on(backend):
    return lambda function: anyio.run(function, backend=backend)


RUNNERS = {
    "asyncio": lambda function: asyncio.run(function()),
    "trio": trio.run,
    "anyio on asyncio": run_anyio_on("asyncio"),
    "anyio on trio": run_anyio_on("trio"),
}


@pytest.fixture(params=RUNNERS)
def run(request):
    """Run a coroutine function with one of them."""
    return RUNNERS[request.param]


@pytest.fixture(params=["asyncio", "trio"])
def run_with_anyio(request):
    """Where only anyio has the same words for both."""
    return RUNNERS[f"anyio on {request.param}"]


@pytest.fixture
def container(engine):
    with engine.run("capsule/host", command="sleep 0.2; echo one; sleep 0.2; echo two; sleep 0.2; exit 3") as one:
        yield one


def test_a_command_is_awaited(run, container):
    async def main():
        result = await container.aexec("cat; echo err >&2; exit 4", stdin="given")
        assert (result.exit_code, result.stdout, result.stderr) == (4, "given", "err\n")
        with pytest.raises(ExecError):
            await container.aexec(["false"], check=True)

    run(main)


def test_the_loop_goes_on(run_with_anyio, container):
    async def main():
        beats = 0
        async with anyio.create_task_group() as group:

            async def beat():
                nonlocal beats
                while True:
                    beats += 1
                    await anyio.sleep(0.01)

            group.start_soon(beat)
            for _ in range(2):
                await container.aexec("sleep 0.3")
            group.cancel_scope.cancel()
        assert beats >= 3

    run_with_anyio(main)


def test_logs_and_the_end_are_awaited(run, container):
    async def main():
        assert [line async for line in container.alogs()] == ["one\n", "two\n"]
        assert await container.await_exit(10) == 3

    run(main)


def test_what_is_not_there_in_time(run, container):
    async def main():
        with pytest.raises(TimeoutError):
            await container.await_exit(0.05)
        await wait.auntil(container, wait.log("two"), 30)

    run(main)


def test_cancelling_kills_the_command_and_leaves_no_thread(run_with_anyio, engine):
    container = engine.run("capsule/host", command=["sleep", "1000"])

    async def main():
        for waiting in (
            lambda: container.aexec("touch /begun; exec sleep 1001"),
            lambda: wait.auntil(container, wait.file("/never"), 1000),
        ):
            with anyio.move_on_after(1) as scope:
                await waiting()
            assert scope.cancelled_caught

    run_with_anyio(main)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (
        any(thread.name == "capsule-await" for thread in threading.enumerate())
        or any("1001" in process["command"] for process in container.top())
    ):
        time.sleep(0.01)
    assert not any("1001" in process["command"] for process in container.top())
    assert not any(thread.name == "capsule-await" for thread in threading.enumerate())
    container.close()


def test_without_an_event_loop_there_is_one_clear_error(container):
    coroutine = container.aexec(["true"])
    with pytest.raises(UsageError, match="no event loop"):
        coroutine.send(None)
