"""The next test's container is made while the current one runs, and only where nothing can come between."""

import pytest

LOOK = """
    import pytest

    def standing(capsule):
        return set(capsule._open)

    def remember(capsule, pytestconfig):
        pytestconfig.seen = standing(capsule)
"""


@pytest.fixture
def two_tests(suite, pytester):
    """Run two tests, of which the second passes if its container was there during the first, and count as one says."""

    def run(marker="@pytest.mark.container('capsule/host', command=[])", before="", more=""):
        pytester.makeconftest(LOOK + more)
        return suite(
            f"""
            import pytest
            from conftest import remember

            {marker}
            def test_first(container, capsule, pytestconfig):
                {before or "pass"}
                remember(capsule, pytestconfig)

            {marker}
            def test_second(container, pytestconfig):
                assert container.exec(["true"]).exit_code == 0
                assert container.id in pytestconfig.seen
            """
        )

    return run


def test_the_next_container_is_there_already(two_tests):
    two_tests().assert_outcomes(passed=2)


def test_limits_are_those_of_a_container_that_was_made_ahead(two_tests):
    two_tests("@pytest.mark.container('capsule/host', command=[], memory='64m', pids=30)").assert_outcomes(passed=2)


def test_of_several_the_network_and_the_first_are_there_already(suite):
    result = suite(
        """
        import pytest

        pytestmark = [
            pytest.mark.container("capsule/host", command=[], name="one"),
            pytest.mark.container("capsule/host", command=[], name="two"),
        ]

        @pytest.mark.parametrize("turn", range(3))
        def test_it(containers, capsule, pytestconfig, turn):
            one, two = containers.values()
            if turn:
                assert one.id in pytestconfig.seen
                assert two.id not in pytestconfig.seen
            assert one.exec("getent ahostsv4 two", check=True).stdout.split()[0] == two.ip
            assert two.exec("getent ahostsv4 one", check=True).stdout.split()[0] == one.ip
            assert len(capsule._networks) == min(turn + 2, 3), "one a test, and one for the next"
            pytestconfig.seen = set(capsule._open)
        """
    )
    result.assert_outcomes(passed=3)


def test_of_several_that_come_to_something_else_the_first_is_made_anew_in_their_network(suite):
    suite(
        """
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def app(capsule):
            capsule.tag("capsule/host", "app")

        @pytest.mark.container("app", command=[])
        def test_first(container, capsule):
            assert len(capsule._networks) == 1
            container.write_text("/srv/new", "")
            capsule.tag(container.commit(), "app")

        @pytest.mark.container("app", command=[], name="one")
        @pytest.mark.container("capsule/host", command=[], name="two")
        def test_second(containers, capsule):
            one, two = containers["one"], containers["two"]
            assert one.listdir("/srv") == ["new"]
            assert two.exec("getent ahostsv4 one", check=True).stdout.split()[0] == one.ip
            assert one.exec("getent ahostsv4 two", check=True).stdout.split()[0] == two.ip
            assert len(capsule._networks) == 1
            assert set(capsule._open) == {one.id, two.id}
        """
    ).assert_outcomes(passed=2)


def test_the_network_made_for_a_test_that_is_skipped_is_dropped(suite):
    suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", command=[])
        def test_first(container):
            pass

        @pytest.fixture
        def unwilling():
            pytest.skip("not today")

        @pytest.mark.container("capsule/host", command=[], name="one")
        @pytest.mark.container("capsule/host", command=[], name="two")
        def test_second(unwilling, containers):
            pass

        @pytest.mark.container("capsule/host", command=[])
        def test_third(container, capsule):
            assert [network._closed for network in capsule._networks] == [True]
            assert set(capsule._open) == {container.id}
        """
    ).assert_outcomes(passed=2, skipped=1)


def test_a_main_process_is_not_started_ahead(suite):
    suite(
        """
        import pytest

        @pytest.mark.parametrize("turn", range(3))
        @pytest.mark.container("capsule/host", command="date +%s%N; exec sleep 60")
        def test_it(container, turn, pytestconfig):
            import time

            began = time.time_ns()
            while not container.logs():
                time.sleep(0.001)
            last = getattr(pytestconfig, "ended", 0)
            assert int(container.logs()) > last
            time.sleep(0.05)
            pytestconfig.ended = time.time_ns()
        """
    ).assert_outcomes(passed=3)


@pytest.mark.parametrize(
    "more",
    [
        """
    @pytest.fixture
    def container_spec(container_spec):
        return container_spec.with_changes(hostname="other")
    """,
        """
    def pytest_capsule_spec(item, spec):
        return spec.with_changes(hostname="other")
    """,
    ],
    ids=["container_spec", "hook"],
)
def test_a_suite_that_changes_specs_has_none_made_ahead(two_tests, more):
    two_tests(more=more).assert_outcomes(passed=1, failed=1)


def test_a_container_that_shares_files_with_the_host_is_not_made_ahead(two_tests):
    marker = "@pytest.mark.container('capsule/host', command=[], volumes=['.:/host'])"
    two_tests(marker).assert_outcomes(passed=1, failed=1)


def test_a_name_that_a_test_gives_to_another_image_counts(suite):
    suite(
        """
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def app(capsule):
            capsule.tag("capsule/host", "app")

        @pytest.mark.container("app", command=[])
        def test_first(container, capsule):
            container.write_text("/srv/new", "")
            capsule.tag(container.commit(), "app")

        @pytest.mark.container("app", command=[])
        def test_second(container):
            assert container.listdir("/srv") == ["new"]
        """
    ).assert_outcomes(passed=2)


def test_what_was_made_for_a_test_that_is_skipped_is_dropped(suite):
    result = suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", command=[])
        def test_first(container, capsule):
            pass

        @pytest.mark.container("capsule/host", command=[], hostname="unused")
        def test_second(container):
            pytest.skip("not today")

        @pytest.fixture
        def unwilling():
            pytest.skip("nor this one")

        @pytest.mark.container("capsule/host", command=[], hostname="unused")
        def test_third(unwilling, container):
            pass

        @pytest.mark.container("capsule/host", command=[])
        def test_fourth(container, capsule):
            assert [one.spec.hostname for one in capsule._open.values()].count("unused") == 0
        """
    )
    result.assert_outcomes(passed=2, skipped=2)


def test_what_is_wrong_with_the_next_container_is_said_by_its_own_test(suite):
    result = suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", command=[])
        def test_first(container):
            pass

        @pytest.mark.container("nowhere:at-all")
        def test_second(container):
            pass
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_second*", "*test_suite.py:*nowhere*"])
