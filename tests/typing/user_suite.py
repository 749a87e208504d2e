"""A test suite as a user types it: mypy and pyright, both strict, must find nothing to say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_capsule import (
    Build,
    Change,
    Container,
    ContainerSpec,
    Engine,
    ExecError,
    ExecResult,
    Image,
    Network,
    container_fixture,
    image_fixture,
    network_fixture,
    wait,
)

app_image = image_fixture(build="docker/app")
database = container_fixture("postgres:16", ports=[5432], wait=wait.port(5432), scope="session")
backend = network_fixture()


@pytest.fixture
def container_spec(container_spec: ContainerSpec) -> ContainerSpec:
    return container_spec.with_changes(env={"DEBUG": "1"})


@pytest.fixture
def seeded(capsule: Engine) -> Iterator[Container]:
    with capsule.run("capsule/host", command=[], timeout=5) as container:
        container.write_text("/srv/seed", "x")
        yield container


@pytest.mark.container(build=Build("docker/app", target="test"), wait=wait.all_of(wait.log("up"), wait.file("/ready")))
def test_members(container: Container, containers: dict[str, Container], capsule: Engine) -> None:
    result: ExecResult[str] = container.exec(["id"], check=True)
    raw: ExecResult[bytes] = container.exec("id", text=False)
    words: list[str] = result.stdout.split()
    data: bytes = raw.stdout
    code: int = container.wait(timeout=5)
    changes: list[Change] = container.diff()
    host, port = container.address(8000)
    url: str = container.url(8000, "/health")
    image: Image = capsule.build("docker/app", tag="app:test")
    network: Network = capsule.network()
    names: list[str] = [one.name for one in containers.values()]
    try:
        container.exec("false", check=True)
    except ExecError as error:
        print(error.exit_code, error.stdout)
    print(words, data, code, changes, host + str(port), url, image.id, network.name, names, container.logs())


async def awaited(container: Container) -> int:
    result = await container.aexec(["true"], check=True)
    async for line in container.alogs():
        print(line.strip())
    await wait.auntil(container, wait.healthy(), 10)
    return await container.await_exit(5) + result.exit_code


def test_values(app_image: Image, database: Container, backend: Network) -> None:
    print(app_image.short_id, database.ip, backend.name)
