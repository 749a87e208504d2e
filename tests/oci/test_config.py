import json
from dataclasses import replace

import pytest

from pytest_capsule.errors import MalformedImage
from pytest_capsule.oci.config import Healthcheck, History, ImageConfig, RunConfig
from pytest_capsule.oci.digest import Digest
from pytest_capsule.oci.platform import Platform

LAYER = Digest.of(b"layer")

# The shape, the order of keys and the escapes of what `docker buildx build` writes.
BUILDKIT = (
    '{"architecture":"amd64","author":"Ada","config":{"User":"app","ExposedPorts":{"53/udp":{},"8000/tcp":{}},'
    '"Env":["PATH=/usr/bin:/bin","GREETING=h\u00e9llo \\u003c\\u0026\\u003e"],"Entrypoint":["/entry"],'
    '"Cmd":["serve","--all"],"Volumes":{"/data":{}},"WorkingDir":"/app","Labels":{"a":"1","b":"2"},'
    '"StopSignal":"SIGINT","Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Timeout":1000000000,'
    '"StartPeriod":2000000000,"StartInterval":500000000,"Retries":3},"OnBuild":["RUN true"],'
    '"Shell":["/bin/bash","-c"]},"created":"2024-05-02T16:49:27.123456789Z","history":['
    '{"created":"2024-05-02T16:49:27Z","created_by":"COPY hello / # buildkit","comment":"buildkit.dockerfile.v0"},'
    '{"created":"2024-05-02T16:49:27Z","created_by":"CMD [\\"serve\\"]","author":"Ada","empty_layer":true}],'
    f'"os":"linux","rootfs":{{"type":"layers","diff_ids":["{LAYER}"]}},"variant":"v2"}}'
).encode()


def config_with(**changes):
    """A minimal config document with some keys changed."""
    values = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, **changes}
    return json.dumps(values).encode()


def test_every_field_is_read():
    image = ImageConfig.from_json(BUILDKIT)
    assert image.platform == Platform("linux", "amd64", "v2")
    assert image.author == "Ada"
    assert image.created == "2024-05-02T16:49:27.123456789Z"
    assert image.diff_ids == (LAYER,)
    assert image.chain_ids() == (LAYER,)
    assert image.config == RunConfig(
        user="app",
        exposed_ports=("53/udp", "8000/tcp"),
        env=("PATH=/usr/bin:/bin", "GREETING=h\u00e9llo <&>"),
        entrypoint=("/entry",),
        cmd=("serve", "--all"),
        volumes=("/data",),
        working_dir="/app",
        labels={"a": "1", "b": "2"},
        stop_signal="SIGINT",
        healthcheck=Healthcheck(
            test=("CMD-SHELL", "true"),
            interval=5_000_000_000,
            timeout=1_000_000_000,
            start_period=2_000_000_000,
            start_interval=500_000_000,
            retries=3,
        ),
        on_build=("RUN true",),
        shell=("/bin/bash", "-c"),
    )
    assert image.history[0] == History(
        "2024-05-02T16:49:27Z", "COPY hello / # buildkit", comment="buildkit.dockerfile.v0"
    )
    assert image.history[1].empty_layer


def test_a_config_of_buildkit_comes_back_byte_for_byte():
    assert ImageConfig.from_json(BUILDKIT).to_json() == BUILDKIT


def test_what_is_empty_is_left_out():
    image = ImageConfig("arm64")
    assert json.loads(image.to_json()) == {
        "architecture": "arm64",
        "config": {},
        "history": [],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    assert ImageConfig.from_json(image.to_json()) == image


def test_equal_values_give_equal_bytes():
    one = ImageConfig("amd64", config=RunConfig(labels={"b": "2", "a": "1"}, volumes=("/b", "/a")))
    two = ImageConfig("amd64", config=RunConfig(labels={"a": "1", "b": "2"}, volumes=("/a", "/b")))
    assert one.to_json() == two.to_json()


def test_null_is_as_good_as_absent():
    data = config_with(config={"Cmd": None, "Labels": None, "Healthcheck": None}, history=None, author=None)
    assert ImageConfig.from_json(data) == ImageConfig.from_json(config_with())
    assert ImageConfig.from_json(config_with(config=None)).config == RunConfig()


def test_unknown_keys_survive_at_every_level():
    data = config_with(
        docker_version="20.10",
        config={"Hostname": "x", "Tty": False, "Healthcheck": {"Test": ["NONE"], "Odd": [1]}, "User": "u"},
        history=[{"created_by": "RUN", "odd": {"k": None}}],
        rootfs={"type": "layers", "diff_ids": [], "base_layer": "b"},
    )
    image = ImageConfig.from_json(data)
    assert image.extra == {"docker_version": "20.10"}
    assert image.config.extra == {"Hostname": "x", "Tty": False}
    assert json.loads(image.with_env("A", "1").to_json()) == {
        **json.loads(data),
        "config": {**json.loads(data)["config"], "Env": ["A=1"]},
    }


def test_a_lone_surrogate_is_written_as_go_writes_it():
    image = ImageConfig.from_json(config_with(author="a\ud800b"))
    assert ImageConfig.from_json(image.to_json()).author == "a\ufffdb"


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"architecture": 3}, "architecture", "expected a string, found a number"),
        ({"created": []}, "created", "expected a string, found an array"),
        ({"config": []}, "config", "expected an object, found an array"),
        ({"config": {"Env": "A=1"}}, "config.Env", "expected an array of strings, found a string"),
        ({"config": {"Env": ["A=1", 2]}}, "config.Env[1]", "expected a string, found a number"),
        ({"config": {"Cmd": {}}}, "config.Cmd", "expected an array of strings, found an object"),
        ({"config": {"Volumes": ["/data"]}}, "config.Volumes", "expected an object, found an array"),
        ({"config": {"Labels": {"a": 1}}}, 'config.Labels["a"]', "expected a string, found a number"),
        ({"config": {"ArgsEscaped": 1}}, "config.ArgsEscaped", "expected true or false, found a number"),
        ({"config": {"Healthcheck": {"Retries": True}}}, "config.Healthcheck.Retries", "expected an integer"),
        ({"config": {"Healthcheck": {"Interval": 1.5}}}, "config.Healthcheck.Interval", "found a number"),
        ({"history": [{}, 1]}, "history[1]", "expected an object, found a number"),
        ({"history": [{"empty_layer": "yes"}]}, "history[0].empty_layer", "expected true or false"),
        ({"rootfs": None}, "rootfs", "missing"),
        ({"rootfs": {"type": "other"}}, "rootfs.type", "must be 'layers'"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:1"]}}, "rootfs.diff_ids[0]", "takes 64"),
        ({"rootfs": {"type": "layers", "diff_ids": [None]}}, "rootfs.diff_ids[0]", "found null"),
    ],
)
def test_an_error_names_the_field(changes, field, reason):
    with pytest.raises(MalformedImage) as caught:
        ImageConfig.from_json(config_with(**changes))
    assert caught.value.document == "image config"
    assert caught.value.field == field
    assert reason in caught.value.reason
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a": ' + b"9" * 10_000],
    ids=["empty", "cut off", "not UTF-8", "NaN", "too deep", "huge number"],
)
def test_what_is_no_json(data):
    with pytest.raises(MalformedImage, match="not valid JSON"):
        ImageConfig.from_json(data)


def test_json_of_another_kind():
    with pytest.raises(MalformedImage, match="expected a JSON object, found an array"):
        ImageConfig.from_json(b"[]")


def test_an_environment_keeps_its_order():
    config = RunConfig(env=("PATH=/bin", "A=1", "B=x=y"))
    assert config.with_env("A", "2").env == ("PATH=/bin", "A=2", "B=x=y")
    assert config.with_env("C", "").env == ("PATH=/bin", "A=1", "B=x=y", "C=")
    assert config.with_env("a", "3").env[-1] == "a=3"
    assert config.env_dict() == {"PATH": "/bin", "A": "1", "B": "x=y"}
    assert RunConfig(env=("BARE",)).env_dict() == {}


def test_labels_are_added_and_replaced():
    assert RunConfig(labels={"a": "1", "b": "2"}).with_labels({"b": "3"}).labels == {"a": "1", "b": "3"}


def test_steps_of_a_build_make_a_new_image_each():
    base = ImageConfig("amd64", created="2024-01-01T00:00:00Z")
    labelled = base.with_history(History("2024-02-02T00:00:00Z", "LABEL a=b"))
    final = labelled.with_config(user="app", cmd=("run",)).with_history(History(created_by="USER app"))
    assert base.history == ()
    assert [(entry.created_by, entry.empty_layer) for entry in final.history] == [
        ("LABEL a=b", True),
        ("USER app", True),
    ]
    assert final.created == "2024-02-02T00:00:00Z"
    assert (final.config.user, final.config.cmd) == ("app", ("run",))


def test_an_old_image_that_names_no_os_is_for_linux():
    image = ImageConfig.from_json(config_with(os=""))
    assert image.platform == Platform("linux", "amd64")
    assert image.os == ""


def test_configs_are_values():
    image = ImageConfig.from_json(BUILDKIT)
    assert {image, ImageConfig.from_json(BUILDKIT)} == {image}
    assert replace(image, author="Bob") != image
