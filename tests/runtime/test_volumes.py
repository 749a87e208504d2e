"""Volumes: named ones, those of a container's own, what an image declares, and what they begin with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_capsule import Volume
from pytest_capsule.errors import UsageError


@pytest.fixture
def image_with_data(engine, tmp_path):
    """An image that declares a volume and has files in it, of two users where there are some."""
    (tmp_path / "Dockerfile").write_text(
        "FROM capsule/host\n"
        "RUN mkdir -p /data/deep && echo first >/data/deep/file && ln /data/deep/file /data/again "
        "&& ln -s deep/file /data/link && chmod 2750 /data && chmod 600 /data/deep/file\n"
        "VOLUME /data\n"
    )
    return engine.build(tmp_path)


def test_a_named_volume_is_shared_and_outlives_its_containers(engine):
    with engine.run("capsule/host", command=[], volumes=["shared:/one"]) as one:
        one.write_text("/one/file", "from one")
        with engine.run("capsule/host", command=[], volumes=["shared:/two:ro,z"]) as two:
            assert two.read_text("/two/file") == "from one"
            assert "Read-only" in two.exec("touch /two/more").stderr
    with engine.run("capsule/host", command=[], volumes=["shared:/three"]) as three:
        assert three.read_text("/three/file") == "from one"
    engine.volume("shared").close()
    with engine.run("capsule/host", command=[], volumes=["shared:/four"]) as four:
        assert four.listdir("/four") == []


def test_a_volume_without_a_name(engine):
    with engine.volume() as volume, engine.volume() as other:
        assert isinstance(volume, Volume)
        assert volume.name != other.name
        for volumes in ({volume: "/v"}, [(volume, "/v")], [f"{volume}:/v"]):
            with engine.run("capsule/host", command=[], volumes=volumes) as container:
                container.exec("echo line >>/v/file", check=True)
        assert (volume.path / "file").read_text() == "line\n" * 3
        assert list(other.path.iterdir()) == []
    assert not volume.path.exists()


def test_all_are_gone_with_the_engine(tmp_path):
    from pytest_capsule import Engine

    with Engine(cache_dir=tmp_path) as engine:
        path = engine.volume("kept").path
        with engine.run("capsule/host", command=[], volumes=["kept:/v"]) as container:
            container.exec("mkdir /v/deep; touch /v/deep/file", check=True)
            if engine.ids.kind != "single":
                container.exec("mkdir -m 700 /v/theirs; chown 12:12 /v/theirs", check=True)
        assert path.exists()
    assert not path.exists()


def test_the_volume_of_an_image_begins_with_its_content(engine, image_with_data):
    with engine.run(image_with_data, command=[]) as one, engine.run(image_with_data, command=[]) as other:
        shown = one.exec("stat -c '%a %n' /data /data/deep/file; stat -c %h /data/again; readlink /data/link").stdout
        assert shown.splitlines() == ["2750 /data", "600 /data/deep/file", "2", "deep/file"]
        one.write_text("/data/deep/file", "changed")
        assert other.read_text("/data/again") == "first\n"
        assert not [change for change in one.diff() if change.path.startswith("/data")]
    with engine.run(image_with_data, command=[], read_only=True) as container:
        container.write_text("/data/new", "written")
    with engine.run(one.image, command=[], tmpfs=["/data"]) as container:
        assert container.listdir("/data") == []


@pytest.mark.identities("root", "range")
def test_content_keeps_its_owners(engine, tmp_path):
    (tmp_path / "Dockerfile").write_text(
        "FROM capsule/host\nRUN mkdir /data && touch /data/theirs && chown -R 12:13 /data\nVOLUME /data\n"
    )
    image = engine.build(tmp_path)
    for volumes in ([], ["filled:/data"]):
        with engine.run(image, command=[], volumes=volumes) as container:
            assert container.exec("stat -c %u:%g /data /data/theirs").stdout == "12:13\n12:13\n"
    engine.volume("filled").close()


def test_an_empty_named_volume_is_filled_once(engine, image_with_data):
    with engine.volume() as volume:
        with ThreadPoolExecutor(4) as pool:
            containers = list(
                pool.map(lambda _: engine.run(image_with_data, command=[], volumes={volume: "/data"}), range(4))
            )
        for container in containers:
            assert container.read_text("/data/deep/file") == "first\n"
        containers[0].exec("rm -r /data/deep", check=True)
        with engine.run(image_with_data, command=[], volumes={volume: "/data"}) as container:
            assert container.listdir("/data") == ["again", "link"]
        for container in containers:
            container.close()
    with (
        engine.volume() as empty,
        engine.run(image_with_data, command=[], volumes=[f"{empty}:/data:nocopy"]) as container,
    ):
        assert container.listdir("/data") == []


def test_a_volume_of_its_own_is_in_no_layer(engine):
    with engine.run("capsule/host", command=[], volumes=["/mine"]) as container:
        container.write_text("/mine/file", "x")
        image = container.commit()
    with engine.run(image, command=[]) as container:
        assert container.listdir("/mine") == []


def test_one_volume_inside_another(engine, tmp_path):
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    with engine.run(
        "capsule/host", command=[], volumes=["deep:/a/inner", f"{tmp_path}/outer:/a"], tmpfs=["/a/inner/ram"]
    ) as container:
        container.write_text("/a/inner/file", "deep")
        container.write_text("/a/file", "outer")
    assert (tmp_path / "outer" / "file").read_text() == "outer"
    assert list((tmp_path / "outer" / "inner").iterdir()) == []
    assert (engine.volume("deep").path / "file").read_text() == "deep"
    engine.volume("deep").close()


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        (["data:relative"], "absolute"),
        (["data:/x:loud"], "loud"),
        (["relative"], "absolute"),
        ([":/x"], "neither a path"),
        (["data:/"], "cannot be /"),
        (["data:/srv/../.."], "cannot be /"),
        (["data://"], "cannot be /"),
        (["data:/proc"], "cannot be /proc or in it"),
        (["/proc/self"], "cannot be /proc or in it"),
        ([3], "a text, or a pair"),
        ([(3, "/x")], "neither a path"),
        (["./none:/x"], "does not exist"),
    ],
)
def test_what_is_wrong_is_said(engine, volumes, words):
    with pytest.raises(UsageError, match=words):
        engine.run("capsule/host", command=[], volumes=volumes)
    with pytest.raises(UsageError, match="no name"):
        engine.volume("a/b")
