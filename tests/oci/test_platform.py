import pytest

from pytest_capsule.errors import UsageError
from pytest_capsule.oci.platform import Platform

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/X86-64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("linux/s390x", "linux/s390x"),
    ],
)
def test_one_canonical_name(text, canonical):
    platform = Platform.parse(text)
    assert str(platform) == canonical
    assert Platform.parse(canonical) == platform
    assert platform.normalized() == platform


def test_half_a_platform_is_completed_from_the_host():
    assert Platform.parse("arm64", host=AMD64) == ARM64
    assert Platform.parse("linux", host=ARM64) == ARM64
    with pytest.raises(UsageError, match="half a platform"):
        Platform.parse("arm64")
    with pytest.raises(UsageError, match="neither"):
        Platform.parse("vax", host=AMD64)


@pytest.mark.parametrize("text", ["", "linux/", "/amd64", "linux/arm/v7/x", "linux/*", "linux amd64"])
def test_what_is_no_platform(text):
    with pytest.raises(UsageError, match="no platform"):
        Platform.parse(text, host=AMD64)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("armv8l", "linux/arm/v8"),
        ("i686", "linux/386"),
        ("ppc64le", "linux/ppc64le"),
        ("riscv64", "linux/riscv64"),
        ("loongarch64", "linux/loong64"),
    ],
)
def test_the_host(machine, expected):
    assert str(Platform.host(machine)) == expected


@pytest.mark.parametrize(
    ("host", "runs"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v5", ["linux/arm/v5"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/riscv64", ["linux/riscv64"]),
    ],
)
def test_what_a_host_runs_best_first(host, runs):
    assert [str(platform) for platform in Platform.parse(host).compatible()] == runs


def test_arm64_versions_fall_to_v8():
    found = [str(platform) for platform in Platform.parse("linux/arm64/v9.1").compatible()]
    assert found[:3] == ["linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.6"]
    assert found[8:10] == ["linux/arm64", "linux/arm/v8"]
    assert "linux/arm64/v8.7" not in found


def test_rank_tells_the_better_of_two():
    assert ARM64.rank(Platform("linux", "aarch64", "v8")) == 0
    assert ARM64.rank(Platform("linux", "arm", "v7")) == 2
    assert ARM64.rank(AMD64) is None
    assert AMD64.runs(Platform("linux", "386"))
    assert not AMD64.runs(Platform("linux", "amd64", "v2"))
    assert not AMD64.runs(Platform("windows", "amd64"))
