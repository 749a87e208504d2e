"""Tests with a parameter that says which image, or a marker for each parameter."""


def test_a_parameter_says_which_image_and_ids_can_be_read(suite, pytester):
    for version in ("one", "two"):
        (pytester.mkdir(version) / "Dockerfile").write_text(
            f"FROM capsule/host AS base\nARG WORD=none\nRUN echo {version} $WORD > /word\nFROM base AS more\n"
        )
    result = suite(
        """
        import pytest
        from pytest_capsule import Build

        @pytest.fixture
        def container_spec(container_spec, image):
            if isinstance(image, Build):
                return container_spec.with_changes(image=None, build=image)
            return container_spec.with_changes(image=image)


        @pytest.mark.container("capsule/host", command=[])
        @pytest.mark.parametrize(
            ("image", "word"),
            [
                ("capsule/host", None),
                (Build("one"), "one none"),
                (Build("two", target="more", build_args={"WORD": "hello"}), "two hello"),
            ],
        )
        def test_it(container, word):
            assert (container.read_text("/word").strip() if container.exists("/word") else None) == word
        """,
        "-v",
    )

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "*::test_it[[]capsule/host-None] PASSED*",
            "*::test_it[[]one-one none] PASSED*",
            "*::test_it[[]two:more:WORD=hello-two hello] PASSED*",
        ]
    )


def test_a_marker_for_each_parameter(suite, pytester):
    (pytester.mkdir("app") / "Dockerfile").write_text("FROM capsule/host\nRUN touch /app\n")
    result = suite(
        """
        import pytest

        host = pytest.mark.container("capsule/host", command=[])
        app = pytest.mark.container(build="app", command=[])

        @pytest.mark.parametrize("is_app", [pytest.param(False, marks=host), pytest.param(True, marks=app, id="app")])
        def test_it(container, is_app):
            assert container.exists("/app") == is_app

        @pytest.mark.parametrize("turn", [pytest.param(1, marks=pytest.mark.container("capsule/host", colour="red"))])
        def test_wrong(container, turn):
            pass
        """,
        "-v",
    )

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*::test_it[[]app] PASSED*", "test_suite.py:10: *colour*"])
