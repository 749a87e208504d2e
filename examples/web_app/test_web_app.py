"""A web application, built from its Dockerfile, started fresh for each test and talked to through its port."""

import json
from urllib.request import Request, urlopen

import pytest

from pytest_capsule import wait

pytestmark = pytest.mark.container(build=".", ports=[8000], wait=wait.http("/health", port=8000))


def get(url):
    with urlopen(url) as answer:
        return json.load(answer)


def post(url, value):
    with urlopen(Request(url, json.dumps(value).encode())) as answer:
        return json.load(answer)


def test_it_is_healthy(container):
    assert get(container.url(8000, "/health")) == {"status": "ok", "greeting": "hello"}


def test_a_note_is_kept(container):
    assert post(container.url(8000, "/notes"), "buy milk") == ["buy milk"]
    assert get(container.url(8000, "/notes")) == ["buy milk"]
    assert json.loads(container.read_text("/srv/notes/notes.json")) == ["buy milk"]


def test_every_test_begins_with_no_notes(container):
    assert get(container.url(8000, "/notes")) == []


def test_it_logs_its_requests(container):
    get(container.url(8000, "/notes"))

    assert "notes: ready" in container.logs("stdout")
    assert "GET /notes" in container.logs("stderr")


def test_the_port_is_reached_inside_too(container):
    """No published port is needed: the connection is made in the container's own network."""
    with container.connect(8000) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.0 200")


def test_a_build_argument_changes_the_image(capsule, request):
    image = capsule.build(request.path.parent, build_args={"GREETING": "good evening"})

    with capsule.run(image, wait=wait.http("/health", port=8000)) as evening:
        assert get(evening.url(8000, "/health"))["greeting"] == "good evening"
