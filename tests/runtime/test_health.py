"""HEALTHCHECK, run in the container as its times say."""

from __future__ import annotations

import pytest

from pytest_capsule import wait
from pytest_capsule.errors import ContainerExited, WaitTimeout


@pytest.fixture
def image_with_check(engine, tmp_path):
    def build(instruction, command="sleep 1000"):
        (tmp_path / "Dockerfile").write_text(
            f'FROM capsule/host\nHEALTHCHECK {instruction}\nCMD ["sh", "-c", "{command}"]\n'
        )
        return engine.build(tmp_path)

    return build


def test_from_starting_to_healthy_to_unhealthy(engine, image_with_check, eventually):
    image = image_with_check("--interval=100ms --retries=2 CMD echo looked; test -e /tmp/well")
    with engine.run(image) as container:
        assert eventually(lambda: container.health_log)
        assert container.health_log[-1].exit_code == 1
        assert container.health_log[-1].output == "looked\n"
        container.write_text("/tmp/well", "")
        assert eventually(lambda: container.health() == "healthy")
        container.exec("rm /tmp/well", check=True)
        assert eventually(lambda: container.health() == "unhealthy")
        assert len(container.health_log) <= 5
        container.write_text("/tmp/well", "")
        assert eventually(lambda: container.health() == "healthy")
        assert container.status == "running"


def test_failures_of_the_start_do_not_count(engine, image_with_check, eventually):
    image = image_with_check("--interval=20ms --retries=1 --start-period=1h CMD false")
    with engine.run(image) as container:
        assert eventually(lambda: len(container.health_log) == 5)
        assert container.health() == "starting"


def test_waited_for(engine, image_with_check):
    image = image_with_check("CMD test -e /tmp/well", "sleep 0.2; touch /tmp/well; sleep 1000")
    with engine.run(image, wait=wait.healthy(), timeout=60) as container:
        assert container.health() == "healthy"


def test_in_vain(engine, image_with_check):
    with pytest.raises(WaitTimeout, match=r"health is starting \(exit code 4: the last words\)"):
        engine.run(image_with_check("CMD echo the last words; exit 4"), wait=wait.healthy(), timeout=3)
    with pytest.raises(ContainerExited, match="exited with 3"):
        engine.run(image_with_check("CMD false", "sleep 0.1; echo gone; exit 3"), wait=wait.healthy(), timeout=60)


def test_one_that_hangs_is_ended(engine, image_with_check, eventually):
    with engine.run(image_with_check("--timeout=100ms CMD sleep 1000")) as container:
        found = eventually(lambda: container.health_log)
        assert (found[0].exit_code, found[0].output) == (-1, "it did not end within 0.1 s")


def test_without_a_check_and_without_a_main_process(engine, image_with_check, eventually):
    with engine.run(image_with_check("NONE")) as container:
        assert container.health() is None
    with engine.run(image_with_check("CMD true"), command=[]) as container:
        assert eventually(lambda: container.health() == "healthy")
        container.close()
        assert container.health() is None
