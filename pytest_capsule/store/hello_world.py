"""The program of the built-in image ``hello-world``: a static ELF executable, written here byte by byte.

It needs no C library, no loader and no file beside itself, so that it shows whether containers work on a host, and
nothing else. It writes its text to standard output, then ends with 0, or with 1 where the write failed.
"""

from __future__ import annotations

import struct

from pytest_capsule.errors import UnsupportedHost
from pytest_capsule.oci.platform import Platform

HELLO_WORLD_PATH = "/hello"
HELLO_WORLD_CMD = (HELLO_WORLD_PATH,)

HELLO_WORLD_TEXT = """
Hello from capsule!
If you can read this, containers work on this machine.

What just happened:
 1. The image "hello-world" is built in, so nothing was downloaded. It has one
    layer with one file: /hello, some 150 bytes of program and this text.
 2. That layer was mounted read-only under an empty writable one; together
    they are the root of a container that nobody has used before.
 3. /hello was started in that container, in namespaces of its own: it sees no
    process, no network and no file of this machine.
 4. It wrote these lines into a pipe, which brought them to you. When it ends,
    the kernel takes everything of the container away.

What to try next:
  A shell in a throw-away copy of this machine's own programs:
    $ capsule run -it capsule/host sh
  A fresh container for a test of yours, from your Dockerfile:
    @pytest.mark.container(build=".")
    def test_it(container):
        assert container.exec(["cat", "/etc/hostname"]).exit_code == 0
  What this machine can and cannot do:
    $ capsule check

"""

# Both the text and the code sit in one segment that is mapped here, readable and executable. The address is a multiple
# of 64 KiB, the largest page size of the two architectures.
_BASE = 0x400000
_ALIGN = 0x10000

# elf(5): the 64-bit file header and program header.
_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_CODE_OFFSET = _FILE_HEADER.size + _PROGRAM_HEADER.size

_ET_EXEC = 2
_EM_X86_64 = 62
_EM_AARCH64 = 183
_PT_LOAD = 1
_PF_R_X = 4 | 1


def hello_world_elf(architecture: str) -> bytes:
    """The executable for ``architecture``, in the words of uname ("x86_64", "aarch64") or of Go ("amd64", "arm64").

    Raises ``UnsupportedHost`` for any other.
    """
    text = HELLO_WORLD_TEXT.encode("ascii")
    known = {"amd64": (_EM_X86_64, _x86_64_code), "arm64": (_EM_AARCH64, _aarch64_code)}
    try:
        machine, assemble = known[Platform.host(architecture).architecture]
    except KeyError:
        raise UnsupportedHost(
            f"the image hello-world is built in for x86_64 and aarch64, not for {architecture!r}"
        ) from None
    code = assemble(len(text))
    return _headers(machine, len(code) + len(text)) + code + text


def _x86_64_code(text_length: int) -> bytes:
    """``exit(write(1, text, text_length) < 0)``; the text follows the code."""
    tail = (
        b"\xba" + struct.pack("<I", text_length)  # mov  edx, text_length
        + b"\x0f\x05"                             # syscall
        + b"\x48\xc1\xe8\x3f"                     # shr  rax, 63       an error is negative: its sign bit is the code
        + b"\x89\xc7"                             # mov  edi, eax
        + b"\xb8" + struct.pack("<I", 60)         # mov  eax, 60       exit
        + b"\x0f\x05"                             # syscall
    )  # fmt: skip
    return (
        b"\xb8" + struct.pack("<I", 1)                      # mov  eax, 1            write
        + b"\x89\xc7"                                       # mov  edi, eax          standard output
        + b"\x48\x8d\x35" + struct.pack("<i", len(tail))    # lea  rsi, [rip+tail]   the first byte after the code
        + tail
    )  # fmt: skip


def _aarch64_code(text_length: int) -> bytes:
    """``exit(write(1, text, text_length) < 0)``; the text follows the code. Each instruction has four bytes."""
    adr_at, end = 1, 8
    words = (
        _mov(0, 1),                      # mov  x0, #1             standard output
        _adr(1, 4 * (end - adr_at)),     # adr  x1, text           the first byte after the code
        _mov(2, text_length),            # mov  x2, #text_length
        _mov(8, 64),                     # mov  x8, #64            write
        0xD4000001,                      # svc  #0
        0xD37FFC00,                      # lsr  x0, x0, #63        an error is negative: its sign bit is the code
        _mov(8, 93),                     # mov  x8, #93            exit
        0xD4000001,                      # svc  #0
    )  # fmt: skip
    return struct.pack(f"<{end}I", *words)


def _mov(register: int, value: int) -> int:
    """``movz``: 16 bits of value from bit 5 on, the register in the lowest five."""
    return 0xD2800000 | value << 5 | register


def _adr(register: int, distance: int) -> int:
    """``adr``: the two lowest bits of the distance from here at bit 29, the rest from bit 5 on."""
    return 0x10000000 | (distance & 3) << 29 | (distance >> 2) << 5 | register


def _headers(machine: int, size: int) -> bytes:
    """The two headers of an executable whose one segment is the whole file; ``size`` is that of code and text."""
    identity = b"\x7fELF" + bytes([2, 1, 1])  # 64-bit, little-endian, version 1; the ABI is System V
    entry = _BASE + _CODE_OFFSET
    no_sections = (0, 0, 0)
    file_header = _FILE_HEADER.pack(
        identity, _ET_EXEC, machine, 1, entry, _FILE_HEADER.size, 0, 0, _FILE_HEADER.size, _PROGRAM_HEADER.size, 1,
        *no_sections,
    )  # fmt: skip
    whole = _CODE_OFFSET + size
    return file_header + _PROGRAM_HEADER.pack(_PT_LOAD, _PF_R_X, 0, _BASE, _BASE, whole, whole, _ALIGN)
