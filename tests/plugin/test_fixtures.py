"""The fixtures, the factories and the hooks."""

import errno
import textwrap

import pytest

from pytest_capsule.engine import Engine
from pytest_capsule.errors import UnsupportedHost


def test_every_test_has_a_container_of_its_own(suite):
    suite(
        """
        import pytest

        pytestmark = pytest.mark.container("capsule/host", command=[])
        seen = set()

        @pytest.mark.parametrize("turn", [1, 2, 3])
        def test_it(container, turn):
            assert not container.exists("/mark")
            container.write_text("/mark", "x")
            seen.add(container.id)
            assert len(seen) == turn
        """
    ).assert_outcomes(passed=3)


def test_several_markers_give_several_containers_on_one_network(suite):
    suite(
        """
        import pytest
        from pytest_capsule import wait

        SERVER = ["python3", "-m", "http.server", "8000"]
        FETCH = "import urllib.request as u; print(u.urlopen('http://{}:8000/').status)"

        @pytest.mark.container("capsule/host", name="one", command=SERVER, wait=wait.port(8000))
        @pytest.mark.container("capsule/host", name="two", command=SERVER, wait=wait.port(8000))
        def test_they_reach_each_other(containers, container):
            assert list(containers) == ["one", "two"]
            assert container is containers["one"]
            for here, there in (("one", "two"), ("two", "one")):
                result = containers[here].exec(["python3", "-c", FETCH.format(there)], check=True)
                assert result.stdout == "200\\n"
        """
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "names, message",
    [
        (("", ', name="b"'), "*test_suite.py:3: a test with several containers gives each a name=*"),
        ((', name="b"', ', name="b"'), "*test_suite.py:4: this test has two containers with name='b'*"),
    ],
)
def test_several_markers_need_different_names(suite, names, message):
    result = suite(
        f"""
        import pytest

        @pytest.mark.container("hello-world"{names[0]})
        @pytest.mark.container("hello-world"{names[1]})
        def test_it(containers):
            pass
        """
    )

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_a_network_that_the_host_cannot_make_is_one_clear_error(suite, monkeypatch):
    def network(self, *_arguments, **_keywords):
        raise UnsupportedHost("this host has no bridges", syscall="socket", errno=errno.EAFNOSUPPORT)

    monkeypatch.setattr(Engine, "network", network)
    code = """
        import pytest

        @pytest.mark.container("hello-world", name="a")
        @pytest.mark.container("hello-world", name="b")
        def test_it(containers):
            pass
    """

    result = suite(code)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["test_suite.py:3: this host has no bridges*"])
    suite(code, "-o", "capsule_unsupported=skip").assert_outcomes(skipped=1)


def test_overriding_container_spec_changes_what_is_started(suite):
    suite(
        """
        import pytest
        from pytest_capsule import ContainerSpec

        @pytest.fixture
        def container_spec(container_spec):
            return container_spec.with_changes(env={"ADDED": "by the fixture"})

        @pytest.mark.container("capsule/host", command=[])
        def test_marked(container):
            assert container.exec("echo $ADDED").stdout == "by the fixture\\n"

        class TestWithoutMarker:
            @pytest.fixture
            def container_spec(self):
                return ContainerSpec.of("capsule/host", command=["echo", "no marker needed"])

            def test_it(self, container):
                assert container.wait(5) == 0
                assert container.logs() == "no marker needed\\n"
        """
    ).assert_outcomes(passed=2)


def test_a_changed_spec_has_the_image_that_was_named_last(suite, pytester):
    pytester.mkdir("app").joinpath("Dockerfile").write_text("FROM capsule/host\nARG A\nRUN echo $A > /built\n")
    suite(
        """
        import pytest

        @pytest.fixture
        def container_spec(container_spec, change):
            return container_spec.with_changes(**change)

        @pytest.mark.container(build="app", build_args={"A": "1"}, command=[])
        @pytest.mark.parametrize("change", [{"image": "capsule/host"}])
        def test_an_image_instead_of_a_build(container):
            assert not container.exists("/built")

        @pytest.mark.container("hello-world", command=[])
        @pytest.mark.parametrize("change", [{"build": "app", "build_args": {"A": "2"}}])
        def test_a_build_instead_of_an_image(container):
            assert container.read_text("/built") == "2\\n"
        """
    ).assert_outcomes(passed=2)


@pytest.mark.parametrize("given", ["None", "'hello-world'"])
def test_what_gives_no_spec_is_named(suite, pytester, given):
    result = suite(
        f"""
        import pytest

        class TestFixture:
            @pytest.fixture
            def container_spec(self):
                return {given}

            @pytest.mark.container("hello-world")
            def test_it(self, container):
                pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"test_suite.py:8: the fixture container_spec gave {given}"])

    pytester.makeconftest("def pytest_capsule_spec(item, spec): return 'hello-world'")
    result = suite(
        """
        import pytest

        @pytest.mark.container("hello-world")
        def test_it(container):
            pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["test_suite.py:3: the hook pytest_capsule_spec gave 'hello-world'"])


def test_the_engine_is_a_session_fixture_that_closes_what_is_left_open(suite, pytester):
    result = suite(
        """
        import psutil

        def test_one(capsule, tmp_path_factory):
            left_open = capsule.run("capsule/host", command=["sleep", "1000"])
            (tmp_path_factory.getbasetemp().parent / "pid").write_text(str(left_open.pid))
            print("left", left_open.pid)

        def test_two(capsule):
            assert capsule.image("hello-world").id.startswith("sha256:")
        """,
        "-s",
    )

    result.assert_outcomes(passed=2)
    pid = next(line.split()[1] for line in result.outlines if line.startswith("left") or " left " in line)
    assert not (pytester.path / "/proc" / pid).exists()


def test_factories_make_fixtures_of_any_scope(suite, pytester):
    (pytester.path / "Dockerfile").write_text("FROM capsule/host\nRUN echo built > /how\n")
    pytester.makeconftest(
        """
        from pytest_capsule import container_fixture, image_fixture, network_fixture, wait

        app_image = image_fixture(build=".")
        shared = container_fixture("capsule/host", command=[], scope="module")
        fresh = container_fixture(build=".", command=[])
        net = network_fixture(scope="module")
        """
    )

    suite(
        """
        import pytest

        @pytest.mark.parametrize("turn", [1, 2])
        def test_shared_and_fresh(shared, fresh, turn):
            assert shared.exists("/mark") == (turn == 2)
            assert not fresh.exists("/mark")
            for container in (shared, fresh):
                container.write_text("/mark", "x")

        def test_the_image(app_image, capsule):
            with capsule.run(app_image, command=["cat", "/how"]) as container:
                assert container.wait(5) == 0
                assert container.logs() == "built\\n"

        def test_the_network(net, capsule):
            with capsule.run("capsule/host", command=[], network=net, name="first"):
                with capsule.run("capsule/host", command=[], network=net, name="second") as second:
                    assert second.exec("getent hosts first").exit_code == 0
        """
    ).assert_outcomes(passed=4)


def test_factories_make_fixtures_of_a_class(run):
    run(
        """
        from pytest_capsule import container_fixture, image_fixture, network_fixture

        class TestClass:
            image = image_fixture("hello-world")
            box = container_fixture("capsule/host", command=[], scope="class")
            own = container_fixture("capsule/host", command=[])
            network = network_fixture(scope="class")

            def test_one(self, image, box, own, network):
                assert image.tags
                box.write_text("/note", "for all of the class")
                own.write_text("/note", "")

            def test_two(self, box, own):
                assert box.read_text("/note") == "for all of the class"
                assert not own.exists("/note")
        """
    ).assert_outcomes(passed=2)


def test_a_fixture_is_no_image_and_the_error_says_what_is(suite, pytester):
    pytester.makeconftest(
        """
        from pytest_capsule import container_fixture, image_fixture

        image = image_fixture("hello-world")
        box = container_fixture(image)
        """
    )

    said = suite("def test_it(box): pass")

    said.stderr.fnmatch_lines(["*conftest.py:4: image=<*>: it takes a reference or an Image", "*say build= or*"])


def test_a_wrong_factory_names_its_own_line(suite, pytester):
    pytester.makeconftest(
        """
        from pytest_capsule import container_fixture

        broken = container_fixture("capsule/host", comand=[])
        """
    )

    result = suite("def test_it(broken): pass")

    assert result.ret != 0
    (result.stdout.str() + result.stderr.str()).index("conftest.py:3: container has no keyword comand=")


def test_hooks_can_change_the_spec_and_the_image_and_see_containers_come_and_go(suite, pytester):
    pytester.makeconftest(
        """
        def pytest_capsule_spec(item, spec):
            return spec.with_changes(env={"FROM_HOOK": item.name})

        def pytest_capsule_resolve_image(reference):
            return "capsule/host" if reference == "company/base" else None

        def pytest_capsule_container_started(container, item):
            container.write_text("/started", item.name)

        def pytest_capsule_container_stopping(container, item):
            print("stopping", container.name, container.read_text("/started"))

        def pytest_capsule_build_event(event):
            print("build", event.kind, event.name)
        """
    )
    (pytester.path / "Dockerfile").write_text("FROM capsule/host\nRUN echo hooks\n")

    result = suite(
        """
        import pytest

        @pytest.mark.container("company/base", command=[], name="box")
        def test_it(container):
            assert container.exec("echo $FROM_HOOK").stdout == "test_it\\n"
            assert container.read_text("/started") == "test_it"

        @pytest.mark.container(build=".", command=[])
        def test_build(container):
            pass
        """,
        "-s",
    )

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*stopping box test_it*"])
    result.stdout.fnmatch_lines(["*build * [[]2/2] RUN echo hooks*"])


def test_hooks_of_a_conftest_are_for_the_tests_below_its_folder(suite, pytester):
    below = pytester.mkdir("below")
    (below / "conftest.py").write_text(
        "def pytest_capsule_spec(item, spec): return spec.with_changes(env={'A': 'below'})\n"
        "def pytest_capsule_container_started(container, item): container.write_text('/started', '')\n"
    )
    code = """
        import pytest

        @pytest.mark.parametrize("turn", [1, 2])
        @pytest.mark.container("capsule/host", command=[])
        def test_it(container, turn):
            print(container.exists("/started"), container.exec("echo it is: $A").stdout)
    """
    (below / "test_below.py").write_text(textwrap.dedent(code))

    result = suite(code, "-s")

    result.assert_outcomes(passed=4)
    shown = result.stdout.str()
    assert (shown.count("True it is: below"), shown.count("False it is:\n")) == (2, 2)


def test_no_cache_builds_anew_once_a_session(suite, pytester):
    (pytester.path / "Dockerfile").write_text("FROM capsule/host\nRUN cat /proc/sys/kernel/random/uuid > /random\n")
    code = """
        import pytest

        @pytest.mark.parametrize("turn", [1, 2])
        @pytest.mark.container(build=".", command=[])
        def test_it(container, turn):
            print("random", container.read_text("/random"))
    """

    def randoms(*options):
        result = suite(code, "-s", *options)
        result.assert_outcomes(passed=2)
        return [line.split("random ")[1] for line in result.outlines if "random " in line]

    first, again, anew = randoms(), randoms(), randoms("--capsule-no-cache")
    assert len(set(first)) == 1
    assert again == first
    assert len(set(anew)) == 1
    assert anew != first
