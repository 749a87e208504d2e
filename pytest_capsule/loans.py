"""What a worker borrows of the process that leads it, and the parcels in which the two talk (see ``lending``)."""

from __future__ import annotations

import contextlib
import io
import pickle
import socket
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_capsule._linux import channel
from pytest_capsule.errors import UsageError
from pytest_capsule.store.image import Image

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from pytest_capsule.engine import Engine
    from pytest_capsule.runtime.container import Container
    from pytest_capsule.spec import ContainerSpec


class _Pickler(pickle.Pickler):
    """Sends of an image only how it is called: both sides have the same store."""

    def persistent_id(self, value: object) -> tuple[str, tuple[str, ...]] | None:
        return (value.key, value.tags) if isinstance(value, Image) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, engine: Engine) -> None:
        super().__init__(io.BytesIO(data))
        self._engine = engine

    def persistent_load(self, called: tuple[str, tuple[str, ...]]) -> Image:
        key, tags = called
        return replace(self._engine.image(key, pull="never"), tags=tags)


def pack(value: object) -> channel.Message:
    """A value as a message, between two processes of the same user."""
    packed = io.BytesIO()
    _Pickler(packed).dump(value)
    return {"parcel": packed.getvalue().decode("latin-1")}


def pack_error(error: Exception) -> channel.Message:
    """An error as a message: its class, its arguments and its fields."""
    return {**pack((type(error), error.args, vars(error))), "failed": True}


def unpack(message: channel.Message, engine: Engine) -> Any:
    """The value of a message; raises the error that is in it."""
    value = _Unpickler(message["parcel"].encode("latin-1"), engine).load()
    if "failed" not in message:
        return value
    kind, args, fields = value
    error = kind.__new__(kind, *args)
    vars(error).update(fields)
    raise error


class Borrower:
    """Where a worker asks for what all workers use."""

    def __init__(self, address: str, engine: Engine) -> None:
        self._engine = engine
        self._lender = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._lender.connect(address)
        except OSError:
            self._lender.close()
            raise UsageError(
                "shared=True: this worker and the process that leads it are not on one machine",
                hint="leave out shared=True where pytest-xdist has workers elsewhere",
            ) from None
        if not channel.is_own(self._lender):
            self._lender.close()
            raise UsageError("shared=True: the process that leads this worker belongs to another user")

    def borrow(self, key: Hashable, spec: ContainerSpec, folders: Sequence[Path]) -> tuple[Container, bool]:
        """The run's container that is called ``key``, and whether it was started now, as ``spec`` asks for."""
        (lent, is_first), descriptors = self._ask("lend", key, spec, folders)
        return self._engine.attach(lent, descriptors, self._at_owner), is_first

    def _at_owner(self, identity: str, name: str, *args: Any, **keywords: Any) -> Any:
        return self._ask(name, identity, keywords, *args)[0]

    def _ask(self, *words: Any) -> tuple[Any, list[int]]:
        try:
            request = pack(words)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UsageError(f"shared=True: {error}", hint="what it gets has to be known in every process") from None
        answers = channel.ask(self._lender, request)
        message, descriptors = channel.answer(answers)
        if "several" in message:
            return _Several(answers, self._engine), []
        answers.close()
        return unpack(message, self._engine), descriptors

    def close(self) -> None:
        """Ask no more."""
        self._lender.close()


class _Several(Iterator[Any]):
    """Values that come one after another."""

    def __init__(self, answers: socket.socket, engine: Engine) -> None:
        self._answers = answers
        self._engine = engine
        weakref.finalize(self, answers.close)

    def __next__(self) -> Any:
        received = channel.receive(self._answers)
        if received is None:
            raise StopIteration
        return unpack(received[0], self._engine)

    def close(self) -> None:
        """Want no more; who waits for the next one waits no longer."""
        with contextlib.suppress(OSError):
            self._answers.shutdown(socket.SHUT_RDWR)
