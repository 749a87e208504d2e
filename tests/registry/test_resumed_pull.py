"""A pull that was killed: what it has of a layer is the next one's, and is believed only when all of it is right."""

import os
import subprocess
import sys
import threading
import time

import pytest

from pytest_capsule import Engine

CONTENT = os.urandom(1 << 21)  # nothing makes it smaller


@pytest.fixture
def image(fake, tmp_path, home):
    """The name of an image in the registry, and the digest of its only layer."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "file").write_bytes(CONTENT)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    name = f"{fake.host}/app:1"
    with Engine(tmp_path / "builder") as engine:
        built = engine.build(context)
        engine.push(built, name)
        return name, str(built.packed().manifest.layers[0].digest)


@pytest.fixture
def killed(fake, image, tmp_path):
    """What the killed puller has left of the layer."""
    name, layer = image
    may_end = threading.Event()

    def half(handler):
        data = fake.blobs[layer]
        handler.reply(200, data[: len(data) // 2], length=len(data))
        may_end.wait(120)
        return handler.hang_up()

    fake.answers[f"GET /v2/app/blobs/{layer}"].append(half)
    environment = {**os.environ, "CAPSULE_CACHE_DIR": str(tmp_path / "cache")}
    puller = subprocess.Popen(
        [sys.executable, "-m", "pytest_capsule", "pull", name], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not any(path.stat().st_size for path in tmp_path.glob("cache/*/begun/*")):
            assert time.monotonic() < deadline
            assert puller.poll() is None
            time.sleep(0.01)
    finally:
        puller.kill()
        puller.wait()
        may_end.set()
    (left,) = tmp_path.glob("cache/*/begun/*")
    return left


def pulled_file(name, cache):
    with Engine(cache) as engine, engine.run(engine.pull(name), command=[]) as container:
        return container.read_bytes("/file")


def ranges(fake, layer):
    return [headers.get("Range") for headers in fake.asked("GET", f"/v2/app/blobs/{layer}")]


def test_the_next_pull_asks_for_the_rest_only(fake, image, killed, tmp_path):
    name, layer = image
    size = killed.stat().st_size
    assert 0 < size < len(fake.blobs[layer])
    assert pulled_file(name, tmp_path / "cache") == CONTENT
    assert ranges(fake, layer) == [None, f"bytes={size}-"]
    assert not killed.exists()


def test_what_was_damaged_meanwhile_is_fetched_anew(fake, image, killed, tmp_path):
    name, layer = image
    killed.write_bytes(bytes(killed.stat().st_size))
    assert pulled_file(name, tmp_path / "cache") == CONTENT
    assert ranges(fake, layer)[2:] == [None]


def test_all_of_it_without_a_name_needs_no_request(fake, image, killed, tmp_path):
    name, layer = image
    killed.write_bytes(fake.blobs[layer])
    assert pulled_file(name, tmp_path / "cache") == CONTENT
    assert len(ranges(fake, layer)) == 1


def test_a_full_disk_is_one_error_and_is_not_left_full(image, tmp_path):
    name, _ = image
    pull = ["sh", "-c", 'ulimit -f 1024; exec "$@"', "sh", sys.executable, "-m", "pytest_capsule", "pull", name]
    environment = {**os.environ, "CAPSULE_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(pull, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("cache/*/begun/*")) == []


def test_prune_takes_it_after_a_day_and_with_all_at_once(killed, tmp_path):
    other = killed.with_name(killed.name.replace(killed.name[-4:], "0000"))
    other.write_bytes(b"12345")
    os.utime(other, (0, 0))
    with Engine(tmp_path / "cache") as engine:
        assert engine.prune().size >= 5
        assert killed.exists()
        assert not other.exists()
        with engine._store.lock(killed.name):
            engine.prune(all=True)
            assert killed.exists(), "somebody goes on with it"
        engine.prune(all=True)
        assert not killed.exists()
