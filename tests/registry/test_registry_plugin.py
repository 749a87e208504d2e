"""A marker whose image a registry has, and when it is asked."""

import pytest

from pytest_capsule import Engine


@pytest.fixture
def suite(pytester, docker_registry, home, tmp_path, monkeypatch):
    """Runs pytest on two tests of one image that only the registry has."""
    for name in ("CAPSULE_PULL", "CAPSULE_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    name = f"{docker_registry.host}/greeting:1"
    with Engine(tmp_path / "builder") as engine:
        engine.push("hello-world", name)
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.container({name!r})
        @pytest.mark.parametrize("number", range(2))
        def test_it(container, number):
            assert container.wait(timeout=60) == 0
            assert "Hello from" in container.logs()
        """
    )
    return lambda *words: pytester.runpytest_inprocess("--capsule-cache-dir", str(tmp_path / "cache"), *words)


def test_a_missing_image_is_pulled_once(suite, docker_registry):
    suite().assert_outcomes(passed=2)
    suite().assert_outcomes(passed=2)
    assert docker_registry.asked("GET /v2/greeting/manifests/1") == 1


def test_always_is_once_a_session(suite, docker_registry):
    for _ in range(2):
        suite("--capsule-pull=always").assert_outcomes(passed=2)
    assert docker_registry.asked("GET /v2/greeting/manifests/1") == 2


def test_never_is_an_error_with_the_place_of_the_marker(suite, docker_registry, pytester):
    pytester.makeini("[pytest]\ncapsule_pull = never\n")
    result = suite()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*no image '127.0.0.1:*/greeting:1' in the store*"])
    assert docker_registry.asked("GET /v2/greeting/manifests") == 0
