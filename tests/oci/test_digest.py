import hashlib

import pytest

from pytest_capsule.errors import CapsuleError, MalformedImage
from pytest_capsule.oci.digest import Digest, chain_ids

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_digest_of_bytes_reads_back_from_its_text():
    digest = Digest.of(b"")
    assert str(digest) == f"sha256:{EMPTY}"
    assert Digest.parse(str(digest)) == digest
    assert digest.short == "e3b0c44298fc"


def test_sha512_is_known_too():
    digest = Digest.of(b"layer", "sha512")
    assert digest.hex == hashlib.sha512(b"layer").hexdigest()
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not of the form"),
        (EMPTY, "not of the form"),
        (f"md5:{EMPTY[:32]}", "unsupported algorithm 'md5'"),
        (f"sha256:{EMPTY[:63]}", "takes 64"),
        (f"sha256:{EMPTY}\n", "takes 64"),
        (f"sha256:{EMPTY.upper()}", "lower-case"),
        (f"sha512:{EMPTY}", "takes 128"),
        (f"sha256:{'g' * 64}", "hexadecimal"),
        # A digest names a file in the store, so it must never be able to climb out of it.
        ("sha256:../../../../../../../../../../../../../../../../../../etc/passwd", "takes 64"),
    ],
)
def test_what_is_no_digest(text, reason):
    with pytest.raises(MalformedImage, match=reason) as caught:
        Digest.parse(text)
    assert caught.value.document == "digest"


def test_another_algorithm_is_refused_before_hashing():
    with pytest.raises(CapsuleError, match="md5"):
        Digest.of(b"", "md5")


def test_digests_are_values():
    assert len({Digest.of(b"a"), Digest.of(b"a"), Digest.of(b"b")}) == 2
    with pytest.raises(AttributeError):
        Digest.of(b"a").hex = EMPTY


def test_chain_ids_name_stacks_of_layers():
    one, two, three = (Digest.of(layer) for layer in (b"1", b"2", b"3"))
    second = Digest.of(f"{one} {two}".encode())
    assert chain_ids([one, two, three]) == (one, second, Digest.of(f"{second} {three}".encode()))
    assert chain_ids([]) == ()
