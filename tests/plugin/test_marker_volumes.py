"""Named volumes of markers and factories: those of one test are its own."""


def test_containers_of_one_test_share_and_the_next_test_begins_anew(pytester):
    pytester.makepyfile(
        """
        import pytest

        pytestmark = [
            pytest.mark.container("capsule/host", name="one", command=[], volumes=["data:/data"]),
            pytest.mark.container("capsule/host", name="two", command=[], volumes=["data:/here"]),
        ]

        @pytest.mark.parametrize("number", range(2))
        def test_shared(containers, number):
            assert containers["one"].listdir("/data") == []
            containers["one"].write_text("/data/file", "shared")
            assert containers["two"].read_text("/here/file") == "shared"
        """
    )
    pytester.runpytest().assert_outcomes(passed=2)


def test_a_fixture_of_a_wider_scope_keeps_its_own(pytester):
    pytester.makepyfile(
        """
        import pytest
        from pytest_capsule import container_fixture

        keeper = container_fixture("capsule/host", command=[], volumes=["data:/data"], scope="module")

        @pytest.fixture
        def volume(capsule):
            with capsule.volume() as volume:
                yield volume

        @pytest.fixture
        def container_spec(container_spec, volume):
            return container_spec.with_changes(volumes=[*container_spec.volumes, (volume, "/mine")])

        @pytest.mark.parametrize("number", range(2))
        @pytest.mark.container("capsule/host", command=[])
        def test_kept(keeper, container, volume, number):
            assert len(keeper.listdir("/data")) == number
            keeper.write_text(f"/data/{number}", "kept")
            container.write_text("/mine/file", "new")
            assert (volume.path / "file").read_text() == "new"

        @pytest.mark.container("capsule/host", command=[], volumes=["data:/data"])
        def test_apart(container):
            assert container.listdir("/data") == []
        """
    )
    pytester.runpytest().assert_outcomes(passed=3)


def test_a_folder_beside_the_test_file(pytester):
    folder = pytester.mkdir("suite")
    (folder / "data").mkdir()
    (folder / "data" / "file").write_text("beside")
    (folder / "test_suite.py").write_text(
        "import pytest\n"
        "@pytest.mark.container('capsule/host', command=[], volumes=['./data:/data:ro'])\n"
        "def test_it(container):\n"
        "    assert container.read_text('/data/file') == 'beside'\n"
        "    assert container.exec('touch /data/x').exit_code != 0\n"
    )
    pytester.runpytest().assert_outcomes(passed=1)
