"""Messages with descriptors, and what comes instead of them from somebody who has taken the other side over."""

from __future__ import annotations

import array
import errno
import os
import socket

import pytest

from pytest_capsule._linux import channel


@pytest.fixture
def ends():
    ours, theirs = channel.pair()
    with ours, theirs:
        yield ours, theirs


def opened():
    return set(os.listdir("/proc/self/fd"))


def send_raw(sock, data, descriptors=()):
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else [])


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_message_of_any_size_arrives_with_its_descriptors(ends, size):
    ours, theirs = ends
    read, write = os.pipe()
    channel.send(theirs, {"text": "x" * size}, [write])
    message, (given,) = channel.receive(ours)
    assert message == {"text": "x" * size}
    os.write(given, b"through")
    assert os.read(read, 10) == b"through"
    for fd in (read, write, given):
        os.close(fd)


@pytest.mark.parametrize(
    "data",
    [b"=no json", b"=[]", b"=1", b"=" + b"[" * 50_000, b"\xff\xfe", b"=\xff"],
    ids=["no JSON", "a list", "a number", "too deep", "no text", "no UTF-8"],
)
def test_what_is_no_message_is_refused_and_its_descriptors_are_closed(ends, data):
    ours, theirs = ends
    before = opened()
    send_raw(theirs, data, [0, 0, 0])
    with pytest.raises(OSError) as caught:
        channel.receive(ours)
    assert caught.value.errno == errno.EBADMSG
    assert opened() == before
    channel.send(theirs, {"next": True})
    assert channel.receive(ours) == ({"next": True}, [])


@pytest.mark.parametrize("what", ["nothing", "a pipe", "a device without end", "a folder", "a huge file"])
def test_a_large_message_is_a_file_in_memory_and_nothing_else(ends, what):
    """Else whoever reads it would wait for ever, or until its memory is full."""
    ours, theirs = ends
    before = opened()
    pipe = os.pipe()
    huge = os.memfd_create("huge")
    os.truncate(huge, 1 << 40)
    zero, folder = os.open("/dev/zero", os.O_RDONLY), os.open("/", os.O_RDONLY)
    given = {"a pipe": pipe[0], "a device without end": zero, "a folder": folder, "a huge file": huge}
    send_raw(theirs, b"=", [given[what]] if what in given else [])
    for fd in (*pipe, huge, zero, folder):
        os.close(fd)
    with pytest.raises(OSError) as caught:
        channel.receive(ours)
    assert caught.value.errno == errno.EBADMSG
    assert opened() == before


def test_descriptors_of_an_empty_message_are_closed(ends):
    ours, theirs = ends
    before = opened()
    send_raw(theirs, b"", [0] * 100)
    assert channel.receive(ours) is None
    assert opened() == before
