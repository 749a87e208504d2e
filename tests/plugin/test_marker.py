"""``@pytest.mark.container``: what it starts, and what it says when it is wrong."""

import pytest

HELLO = """
    import pytest

    @pytest.mark.container("hello-world")
    def test_hello(container):
        assert container.wait(timeout=5) == 0
        assert "Hello from" in container.logs()
"""


def test_a_test_gets_its_container(suite):
    suite(HELLO).assert_outcomes(passed=1)


def test_relative_paths_start_at_the_test_file_and_then_at_the_rootdir(suite, pytester):
    below = pytester.mkdir("docker")
    (below / "Dockerfile").write_text("FROM capsule/host\nRUN echo root > /from\n")
    folder = pytester.mkpydir("deep")
    (folder / "docker").mkdir()
    (folder / "docker" / "Dockerfile").write_text("FROM capsule/host\nRUN echo deep > /from\n")
    code = """
    import pytest

    @pytest.mark.container(build="docker", command=[])
    def test_it(container):
        print("it is", container.read_text("/from"))
    """
    (folder / "test_deep.py").write_text(code.replace("\n    ", "\n"))

    result = suite(code, "-s")

    result.assert_outcomes(passed=2)
    assert result.stdout.str().count("it is deep") == 1
    assert result.stdout.str().count("it is root") == 1


@pytest.mark.parametrize("form", ["docker", "docker/Dockerfile", "docker/Other"])
def test_build_takes_a_folder_or_a_dockerfile(suite, pytester, form):
    folder = pytester.mkdir("docker")
    (folder / "Dockerfile").write_text("FROM capsule/host\nCMD echo from the folder\n")
    (folder / "Other").write_text("FROM capsule/host\nCMD echo from the other\n")

    result = suite(
        f"""
        import pytest

        @pytest.mark.container(build={form!r})
        def test_it(container):
            assert container.wait(5) == 0
            assert container.logs() == "from the {"other" if "Other" in form else "folder"}\\n"
        """
    )

    result.assert_outcomes(passed=1)


def test_build_takes_a_build(suite, pytester):
    pytester.mkdir("docker").joinpath("Two").write_text(
        "FROM capsule/host AS first\nARG WORD\nRUN echo $WORD > /word\nFROM first\nRUN rm /word\n"
    )

    result = suite(
        """
        import pytest
        from pytest_capsule import Build

        BUILD = Build("docker", dockerfile="Two", target="first", build_args={"WORD": "given"}, tag="plugin:two")

        @pytest.mark.container(build=BUILD, command=[])
        def test_it(container):
            assert container.read_text("/word") == "given\\n"
            assert container.image.tags == ("plugin:two",)
        """
    )

    result.assert_outcomes(passed=1)


def test_folders_beside_a_build_start_where_it_does(suite, pytester):
    pytester.mkdir("app").joinpath("Dockerfile").write_text("FROM scratch\nCOPY --from=shared name /\n")
    pytester.mkdir("shared").joinpath("name").write_text("shared")

    result = suite(
        """
        import pytest
        from pytest_capsule import Build

        @pytest.mark.container(build=Build("app", build_contexts={"shared": "shared"}), command=[])
        def test_it(container):
            assert container.read_text("/name") == "shared"
        """
    )

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "mark, message",
    [
        ('"hello-world", comand=["x"]', "*test_suite.py:3: container has no keyword comand=*"),
        ('"hello-world", workdir=3', "*test_suite.py:3: workdir=3: it takes a path*"),
        ("", "*test_suite.py:3: container got neither an image nor build=*"),
        ('"hello-world", build="."', "*test_suite.py:3: container got both an image and build=*"),
        ('"hello-world", "again"', "*test_suite.py:3: container takes one positional argument*"),
        ('build="nowhere"', "*test_suite.py:3: build: no such folder: *nowhere*"),
        ('build="."', "*test_suite.py:3: build: no such Dockerfile: *"),
        ('"no-such-image:3"', "*test_suite.py:3: no image 'no-such-image:3' in the store*"),
        ('"Upper/Case"', "*test_suite.py:3: *lowercase*"),
        ('"capsule/host", command=["no-such-program"]', "*test_suite.py:3: 'no-such-program': no such program*"),
        ('"capsule/host", network="brigde"', "*test_suite.py:3: network='brigde': there is no such network*"),
        ('"capsule/host", cap_add=["FLY"]', "*test_suite.py:3: no such capability: 'FLY'*"),
        ('"capsule/host", ports=["x"]', "*test_suite.py:3: *'x'*"),
        ('"capsule/host", volumes=["/no/where:/x"]', "*test_suite.py:3: volume /no/where:/x: * does not exist*"),
        ('"capsule/host", wait="soon"', "*test_suite.py:3: wait='soon': it takes a strategy*"),
        ("5", "*test_suite.py:3: image=5: it takes a reference or an Image"),
        ("build=5", "*test_suite.py:3: build=5: it takes a folder, the path of a Dockerfile, or a Build"),
        ('"capsule/host", name="a b"', "*test_suite.py:3: name='a b' is no name of a container"),
        ('"capsule/host", workdir="srv"', "*test_suite.py:3: workdir='srv': it takes a path that begins with /"),
        ('"capsule/host", timeout=-1', "*test_suite.py:3: timeout=-1: it takes a number of seconds, none below 0"),
        ('"capsule/host", timeout=float("nan")', "*test_suite.py:3: timeout=nan: it takes a number of seconds*"),
        ('"capsule/host", env={"A": None}', "*test_suite.py:3: env={'A': None}: names and values are texts"),
        ('"capsule/host", entrypoint=[1]', "*test_suite.py:3: entrypoint=[[]1[]]: every word is a text"),
    ],
)
def test_a_wrong_marker_is_one_clear_error_with_its_line(suite, mark, message):
    result = suite(
        f"""
        import pytest

        @pytest.mark.container({mark})
        def test_it(container):
            raise AssertionError("never reached")
        """
    )

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])
    assert "Traceback" not in result.stdout.str()
    assert "pytest_capsule/" not in result.stdout.str()


def test_a_main_process_that_could_not_be_started_does_not_count_as_running(suite):
    result = suite(
        """
        import pytest

        @pytest.mark.container("capsule/host", name="web", command=["no-such-program"])
        def test_it(container):
            pass
        """
    )

    result.stdout.fnmatch_lines(["image capsule/host, its main process could not be started, nothing logged"])


def test_the_line_is_that_of_the_marker_also_on_a_class_and_a_module(suite):
    result = suite(
        """
        import pytest

        pytestmark = pytest.mark.container("hello-world", name="a")

        @pytest.mark.container("hello-world", name="b")
        class TestClass:
            @pytest.mark.filterwarnings("ignore")
            @pytest.mark.container("hello-world",
                                   name="c", nmae="d")
            def test_method(self, containers):
                pass
        """
    )

    result.stdout.fnmatch_lines(["*test_suite.py:8: container has no keyword nmae=*", "*did you mean name=*"])


def test_containers_start_in_the_order_in_which_their_markers_are_read(suite):
    """In a list or above a function, of a module, a class and a test."""
    result = suite(
        """
        import pytest

        def named(name):
            return pytest.mark.container("capsule/host", command=[], name=name)

        pytestmark = [named("a"), named("b")]

        class TestListed:
            pytestmark = [named("c"), named("d")]

            @named("e")
            @named("f")
            def test_it(self, containers):
                assert list(containers) == ["a", "b", "c", "d", "e", "f"]

        @named("c")
        @named("d")
        class TestDecorated:
            def test_it(self, container, containers):
                assert container.name == "a"
                assert list(containers) == ["a", "b", "c", "d"]
        """
    )

    result.assert_outcomes(passed=2)


def test_a_build_that_fails_shows_the_step_its_line_and_its_output(suite, pytester):
    (pytester.path / "Dockerfile").write_text("FROM capsule/host\n\nRUN echo about to fail && exit 7\n")

    result = suite(
        """
        import pytest

        @pytest.mark.container(build=".")
        def test_it(container):
            pass
        """
    )

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "*test_suite.py:3: the image cannot be built*",
            "*Dockerfile:3: RUN echo about to fail && exit 7: exit code 7*",
            "*about to fail*",
            "*hint: look around in it with: capsule run -it --rm * /bin/sh*",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_no_marker_is_a_clear_error(suite):
    result = suite("def test_it(container): pass")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_it asks for a container and says not which*", "*hint: mark it with *"])


def test_the_marker_is_known_to_pytest(pytester):
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.container(image=None, [*], build=*"])
