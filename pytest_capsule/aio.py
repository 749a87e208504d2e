"""Blocking calls awaited: under asyncio or trio, and so under anyio, whichever runs, with neither needed."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pytest_capsule.errors import UsageError

T = TypeVar("T")


async def in_thread(work: Callable[[], T], give_up: Callable[[], object]) -> T:
    """What ``work`` returns or raises, done in a thread of its own while the event loop goes on.

    When the task is cancelled it does not wait any longer, and ``give_up`` is called, which has to make ``work`` end
    soon. ``UsageError`` where no event loop runs.
    """
    try:
        if _is_trio():
            return await _under_trio(work)
        return await _under_asyncio(work)
    except BaseException as error:
        if _is_cancellation(error):
            give_up()
        raise


def _is_trio() -> bool:
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def _is_cancellation(error: BaseException) -> bool:
    homes = (sys.modules.get("asyncio"), "CancelledError"), (sys.modules.get("trio"), "Cancelled")
    return any(home is not None and isinstance(error, getattr(home, name)) for home, name in homes)


async def _under_trio(work: Callable[[], T]) -> T:
    trio = sys.modules["trio"]
    # A limit of its own: those that wait long may not keep others from beginning.
    result: T = await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
    return result


async def _under_asyncio(work: Callable[[], T]) -> T:
    import asyncio  # here: it takes long, and most test suites have no coroutine

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError("no event loop of asyncio or trio runs here", hint="await it in a coroutine") from None
    future: asyncio.Future[T] = loop.create_future()

    def settle(method: Callable[[Any], None], value: object) -> None:
        if not future.done():  # else it was cancelled
            method(value)

    def run() -> None:
        call: Callable[[], None]
        try:
            call = partial(settle, future.set_result, work())
        except BaseException as error:
            call = partial(settle, future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(call)

    threading.Thread(target=run, name="capsule-await", daemon=True).start()
    return await future
