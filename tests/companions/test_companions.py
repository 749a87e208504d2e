"""Other plugins beside this one: ``tox run -e companions``, which has them, runs this."""

import importlib.util

import psutil
import pytest

COMPANIONS = ("pytest_asyncio", "pytest_randomly", "pytest_rerunfailures", "pytest_timeout", "xdist")
MISSING = [name for name in COMPANIONS if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)} here: tox run -e companions")

INI = """
    [pytest]
    asyncio_default_fixture_loop_scope = function
    filterwarnings = error
"""
SUITE = """
    import asyncio
    import pytest

    pytestmark = pytest.mark.container("capsule/host", command=["sleep", "1009"])

    @pytest.fixture(autouse=True)
    def seen(container, pytestconfig):
        (pytestconfig.rootpath / f"pid-{container.pid}").touch()
        assert container.diff() == []

    @pytest.mark.parametrize("turn", range(3))
    def test_in_any_order(container, turn):
        container.write_text("/mine", "")

    @pytest.mark.flaky(reruns=2)
    def test_once_more(container, pytestconfig):
        container.write_text("/mine", "")
        tries = pytestconfig.rootpath / "tries"
        with tries.open("a") as file:
            file.write(container.id + "\\n")
        assert len(set(tries.read_text().split())) == 3

    @pytest.mark.timeout(3, func_only=True)
    def test_too_slow(container):
        container.exec(["sleep", "1010"])

    @pytest.mark.asyncio
    async def test_awaited(container):
        one, two = await asyncio.gather(container.aexec("echo 1"), container.aexec("echo 2"))
        assert (one.stdout, two.stdout) == ("1\\n", "2\\n")

    def test_parts(container, subtests):
        with subtests.test(part="bad"):
            container.exec("false", check=True)
        with subtests.test(part="good"):
            container.exec("true", check=True)
"""


@pytest.mark.parametrize("options", [["-n0"], ["-n2"]], ids=["alone", "workers"])
def test_beside_all_of_them(pytester, options):
    pytester.makeini(INI)
    pytester.makepyfile(test_suite=SUITE)

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    counts = result.parseoutcomes()
    assert (counts["passed"], counts["rerun"], counts["failed"]) == (5, 2, 3)  # the part, its test, the one too slow
    result.stdout.fnmatch_lines(["*Timeout (>3.0s) from pytest-timeout*", "*- container ????????????: processes -*"])
    result.stdout.fnmatch_lines(["SUBFAILED*part*bad*test_parts*"])
    pids = [path.name.removeprefix("pid-") for path in pytester.path.glob("pid-*")]
    assert len(pids) == 9
    assert [pid for pid in pids if psutil.pid_exists(int(pid))] == []
