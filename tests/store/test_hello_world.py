import platform
import shutil
import struct
import subprocess
import sys

import pytest

from pytest_capsule.errors import UnsupportedHost
from pytest_capsule.store.hello_world import HELLO_WORLD_CMD, HELLO_WORLD_PATH, HELLO_WORLD_TEXT, hello_world_elf

MACHINES = {"x86_64": 62, "aarch64": 183}


def emulator(architecture):
    """The words before a program's path that run it here: none, or a user-mode emulator."""
    if sys.platform == "linux" and platform.machine() == architecture:
        return []
    found = shutil.which(f"qemu-{architecture}-static") or shutil.which(f"qemu-{architecture}")
    if found is None:
        pytest.skip(f"no {architecture} here and no qemu-{architecture} to stand in for it (package qemu-user-static)")
    return [found]


@pytest.fixture(params=MACHINES)
def architecture(request):
    return request.param


@pytest.fixture
def hello(architecture, tmp_path):
    """The command that runs the program of ``architecture``."""
    program = tmp_path / "hello"
    program.write_bytes(hello_world_elf(architecture))
    program.chmod(0o755)
    return [*emulator(architecture), str(program)]


def test_it_says_hello_and_ends_with_0(hello):
    result = subprocess.run(hello, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, HELLO_WORLD_TEXT, "")


def test_a_failed_write_ends_with_1(hello):
    with open("/dev/full", "wb") as full:
        assert subprocess.run(hello, stdout=full).returncode == 1


def test_no_output_at_all_ends_with_1(hello):
    shut = 'exec "$@" >&-'
    assert subprocess.run(["sh", "-c", shut, "sh", *hello]).returncode == 1


def test_it_needs_no_environment(hello):
    assert subprocess.run(hello, env={}, stdout=subprocess.PIPE).returncode == 0


def test_the_file_is_one_small_static_executable(architecture):
    elf = hello_world_elf(architecture)
    assert 150 <= len(elf) - len(HELLO_WORLD_TEXT) < 160  # "some 150 bytes", the text says
    assert elf[:7] == b"\x7fELF\x02\x01\x01"

    kind, machine, version, entry, first_header = struct.unpack_from("<HHIQQ", elf, 16)
    assert (kind, machine, version) == (2, MACHINES[architecture], 1)
    header_size, program_header_size, program_headers = struct.unpack_from("<HHH", elf, 52)
    assert (header_size, program_header_size, program_headers) == (64, 56, 1)

    segment, flags, offset, address, _, in_file, in_memory, align = struct.unpack_from("<IIQQQQQQ", elf, first_header)
    assert (segment, flags, offset) == (1, 5, 0)
    assert in_file == in_memory == len(elf)
    assert address % align == offset % align
    assert entry == address + header_size + program_header_size
    assert elf.endswith(HELLO_WORLD_TEXT.encode())


def test_the_instructions():
    """What an assembler makes of write(1, text, length) and exit(sign of the result)."""
    length = len(HELLO_WORLD_TEXT)
    x86_64 = f"b801000000 89c7 488d3514000000 ba{struct.pack('<I', length).hex()} 0f05 48c1e83f 89c7 b83c000000 0f05"
    aarch64 = (0xD2800020, 0x100000E1, 0xD2800002 | length << 5, 0xD2800808, 0xD4000001, 0xD37FFC00, 0xD2800BA8)
    code = {name: hello_world_elf(name)[120:-length] for name in MACHINES}
    assert code["x86_64"] == bytes.fromhex(x86_64)
    assert code["aarch64"] == struct.pack("<8I", *aarch64, 0xD4000001)


def test_the_text_tells_what_happened():
    assert HELLO_WORLD_TEXT.startswith("\nHello from capsule!\n")
    assert HELLO_WORLD_TEXT.isascii()
    assert max(map(len, HELLO_WORLD_TEXT.splitlines())) < 80


def test_both_names_of_an_architecture_are_known():
    assert hello_world_elf("amd64") == hello_world_elf("x86_64")
    assert hello_world_elf("arm64") == hello_world_elf("aarch64")
    assert HELLO_WORLD_CMD == (HELLO_WORLD_PATH,) == ("/hello",)


def test_another_architecture_is_refused_by_name():
    with pytest.raises(UnsupportedHost, match="not for 's390x'"):
        hello_world_elf("s390x")
