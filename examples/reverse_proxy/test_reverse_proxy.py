"""Two containers on one network: an application, and nginx before it with its settings from a folder of this project.

It runs the nginx that is installed on this machine; ``services.nginx()`` is the official image instead.
"""

import os
import shutil

import httpx
import pytest

from pytest_capsule import services, wait

nginx = services.nginx(from_host=True).with_keywords(
    name="proxy", volumes=["./proxy:/etc/nginx/conf.d:ro"], wait=wait.http("/ready", port=80, status=204)
)

pytestmark = [
    pytest.mark.skipif(
        not shutil.which("nginx", path="/usr/sbin:/usr/bin") and not os.environ.get("CI"),
        reason="nginx is not installed here: apt-get install nginx-light",
    ),
    pytest.mark.container(build="app", name="app", wait=wait.port(8000)),
    pytest.mark.container(**nginx.keywords),
]


def ask(containers, path):
    return httpx.get(containers["proxy"].url(80, path))


def test_the_prefix_is_taken_off(containers):
    assert ask(containers, "/api/notes?page=2").json()["path"] == "/notes?page=2"


def test_the_application_learns_who_asks(containers):
    assert ask(containers, "/api/").json()["client"] == "127.0.0.1"


def test_it_is_said_in_the_log(containers):
    ask(containers, "/nothing-here")
    wait.until(containers["proxy"], wait.log(r'"GET /nothing-here HTTP/1.1" 404'), timeout=10)


def test_an_application_that_has_died(containers):
    containers["app"].kill()
    containers["app"].wait(timeout=10)
    assert ask(containers, "/api/").status_code == 502
    wait.until(containers["proxy"], wait.log("Connection refused"), timeout=10)
