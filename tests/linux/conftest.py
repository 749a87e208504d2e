"""A BPF machine of a few lines, as the kernel's is for seccomp programs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest

X86_64 = 0xC000003E


def run_program(program: bytes, number: int, convention: int = X86_64, arguments: Sequence[int] = (0,) * 6) -> int:
    """What the kernel would make of a call: the return value of the program, as ``seccomp_run_filters`` runs it."""
    data = struct.pack("=IIQ6Q", number, convention, 0, *arguments)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, counter = 0, 0
    while True:
        code, if_true, if_false, value = instructions[counter]
        counter += 1
        match code:
            case 0x20:
                assert value % 4 == 0
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                counter += value
            case 0x15:
                counter += if_true if accumulator == value else if_false
            case 0x35:
                counter += if_true if accumulator >= value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"an instruction that this compiler has no use for: {code:#x}")


@pytest.fixture(scope="session")
def answer() -> Callable[..., int]:
    """``answer(program, number, convention, arguments)``."""
    return run_program
