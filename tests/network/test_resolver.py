"""A container's name server: queries as resolvers send them."""

import struct

import pytest

from pytest_capsule.network import resolver

A, AAAA = 1, 28


def query(name, kind=A, identity=0x1234):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_the_hosts_address():
    asked = resolver.question(query("Host.Capsule.Internal"))
    assert asked is not None
    assert (asked.name, asked.ipv4) == (resolver.HOST_NAME, True)
    said = resolver.answer(query("Host.Capsule.Internal"), asked, "127.0.0.12")
    identity, flags, questions, answers, *_ = struct.unpack_from("!HHHHHH", said)
    assert (identity, flags, questions, answers) == (0x1234, 0x8180, 1, 1)
    assert said.endswith(b"\x00\x04\x7f\x00\x00\x0c")


@pytest.mark.parametrize(
    ("name", "kind", "failed", "code"),
    [
        ("host.capsule.internal", AAAA, False, 0),  # it has none of that kind
        ("host.capsule.internal", A, True, 2),
        ("nobody.example", A, False, 3),
    ],
)
def test_no_address(name, kind, failed, code):
    asked = resolver.question(query(name, kind))
    assert asked is not None
    said = resolver.answer(query(name, kind), asked, None, failed=failed)
    assert struct.unpack_from("!HHHHHH", said)[1:4] == (0x8180 | code, 1, 0)


def test_what_follows_the_question_is_not_repeated():
    asked = query("a.example") + b"\0\0\x29\x10\0\0\0\0\0\0\0"  # EDNS, as glibc sends it
    found = resolver.question(asked)
    assert found is not None
    assert len(resolver.answer(asked, found, None)) == len(query("a.example"))


@pytest.mark.parametrize("junk", [b"", b"short", bytes(12), query("a.example")[:-3], query("a")[:12] + b"\x3fabc"])
def test_junk_is_no_question(junk):
    assert resolver.question(junk) is None
