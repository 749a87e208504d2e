"""RUN: which command, in which environment, as whom."""

import os
import socket
import sys

import pytest

from pytest_capsule.errors import BuildError
from pytest_capsule.store.builtin import DEFAULT_PATH


def test_shell_form_json_form_and_another_shell(project):
    image = project.build(
        "FROM capsule/host\n"
        "RUN echo $0 > /shell\n"
        'RUN ["/bin/sh", "-c", "echo $HOME > /json"]\n'
        'SHELL ["/bin/bash", "-c"]\n'
        "RUN echo ${BASH_VERSION:+bash} > /bash\n"
        'CMD echo "by bash"\n'
    )
    assert image.config.config.cmd == ("/bin/bash", "-c", 'echo "by bash"')
    with project.files(image) as container:
        assert container.read_text("/shell") == "/bin/sh\n"
        assert container.read_text("/json") == "/root\n"
        assert container.read_text("/bash") == "bash\n"


def test_no_command_waits_for_the_disk(project):
    """Neither its fsync nor its end: Documentation/filesystems/overlayfs.rst, "Volatile mount"."""
    project.build("FROM capsule/host\nRUN grep ' / overlay ' /proc/mounts\n", no_cache=True)
    options = project.output().split()[3].split(",")
    assert {"volatile", "fsync=volatile"}.intersection(options)  # the latter where the kernel knows other ways too


def test_heredoc_for_the_shell_is_one_step(project):
    image = project.build("FROM capsule/host\nRUN <<EOF\nset -e\necho one > /one\necho two > /two\nEOF\n")
    assert len(image.layers) == 2
    with project.files(image) as container:
        assert container.read_text("/one") + container.read_text("/two") == "one\ntwo\n"


def test_heredoc_with_an_interpreter(project):
    image = project.build(
        "FROM capsule/host\n"
        "RUN <<EOF\n#!/usr/bin/env python3\nimport sys\nopen('/written', 'w').write(sys.argv[0])\nEOF\n"
    )
    with project.files(image) as container:
        assert container.read_text("/written") == "/dev/pipes/EOF"
        assert not container.exists("/dev/pipes")
    assert image.config.history[-1].created_by == "RUN /bin/sh -c /dev/pipes/EOF # buildkit"


def test_heredoc_as_standard_input(project):
    image = project.build("FROM capsule/host\nRUN cat > /copy <<'EOF'\nas it is: $HOME\nEOF\n")
    with project.files(image) as container:
        assert container.read_text("/copy") == "as it is: $HOME\n"


def test_heredoc_whose_bytes_are_no_text(project):
    project.write("Dockerfile", b"FROM capsule/host\nRUN <<EOF\n#!/bin/sh\nprintf '\xff\xfe' > /bytes\nEOF\n")
    with project.files(project.build()) as container:
        assert container.read_bytes("/bytes") == b"\xff\xfe"


def test_the_environment_is_that_of_the_image_and_its_arguments(project, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    image = project.build(
        "FROM capsule/host\n"
        f"ENV PATH={DEFAULT_PATH} MODE=test\nARG VERSION=3\nARG UNSET\n"
        "WORKDIR /work\nRUN env | sort > /env; pwd > /pwd\n"
    )
    with project.files(image) as container:
        lines = container.read_text("/env").splitlines()
        assert container.read_text("/pwd") == "/work\n"
    ours = [line for line in lines if not line.startswith(("_=", "SHLVL=", "OLDPWD=", "PWD="))]
    assert ours == ["HOME=/root", "MODE=test", f"PATH={DEFAULT_PATH}", "VERSION=3"]


def test_arguments_of_a_run_are_in_its_history_in_their_order(project):
    image = project.build(
        "FROM capsule/host\nARG ZED=1\nARG ABLE=2\nARG UNSET\nARG ZED=3\nRUN true\n",
    )
    assert image.config.history[-1].created_by == "RUN |3 ZED=3 ABLE=2 UNSET= /bin/sh -c true # buildkit"


def test_proxies_need_no_arg_and_leave_no_trace(project):
    proxies = {"HTTP_PROXY": "http://proxy.invalid:1"}
    text = "FROM capsule/host\nRUN echo $HTTP_PROXY $http_proxy\n"
    image = project.build(text, build_args=proxies)
    assert project.output() == "http://proxy.invalid:1 http://proxy.invalid:1\n"
    assert image.config.history[-1].created_by == "RUN /bin/sh -c echo $HTTP_PROXY $http_proxy # buildkit"
    assert not any("proxy.invalid" in entry for entry in image.config.config.env)
    project.build(text, build_args={"HTTP_PROXY": "http://other.invalid:1"})
    assert project.kinds() == ["cached"]


def test_network_none_has_only_the_loopback(project):
    project.build("FROM capsule/host\nRUN --network=none cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '\n")
    assert project.output() == "lo\n"


def test_network_none_reaches_no_server_of_the_host(project):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ("host.capsule.internal", server.getsockname()[1])
        ask = f'python3 -c "import socket; socket.create_connection({address}, 5)"'
        project.build(f"FROM capsule/host\nRUN --network=none {ask} || echo no\n")
        assert project.output().endswith("no\n")


def test_the_host_is_buildkits_sandbox(project):
    project.build("FROM capsule/host\nRUN cat /etc/hosts; cat /proc/sys/kernel/hostname\n")
    assert "127.0.0.1\tbuildkitsandbox" in project.output().replace(" ", "\t")
    assert project.output().endswith("buildkitsandbox\n")


def test_the_host_may_be_called_otherwise(project):
    named = {"BUILDKIT_SANDBOX_HOSTNAME": "builder"}
    text = "FROM capsule/host\nRUN grep -o builder /etc/hosts; cat /proc/sys/kernel/hostname\n"
    project.build(text, build_args=named)
    assert project.output() == "builder\nbuilder\n"
    project.build(text, build_args=named)
    assert project.kinds() == ["cached"]
    project.build(text)
    assert project.output() == "buildkitsandbox\n"


@pytest.mark.identities("root", "range")
def test_user_runs_what_follows(project):
    image = project.build(
        "FROM capsule/host\nRUN echo 'app:x:1234:1235::/home/app:/bin/sh' >> /etc/passwd && mkdir -m 777 /open\n"
        "USER app\nRUN id -u > /open/uid; id -g > /open/gid; echo $HOME > /open/home\n"
        "RUN touch /root/x || echo no > /open/no\n"
        "USER 77:88\nRUN id -u > /open/number; id -g >> /open/number\n"
    )
    with project.files(image) as container:
        read = {name: container.read_text(f"/open/{name}") for name in container.listdir("/open")}
    assert read == {"uid": "1234\n", "gid": "1235\n", "home": "/home/app\n", "no": "no\n", "number": "77\n88\n"}


def test_a_user_that_the_image_does_not_have(project):
    with pytest.raises(BuildError, match="no user 'nobody-here'") as caught:
        project.build("FROM capsule/host\nUSER nobody-here\nRUN true\n")
    assert caught.value.step == "RUN true"


def test_command_and_entrypoint_at_run(project):
    image = project.build('FROM capsule/host\nENTRYPOINT ["echo", "entry"]\nCMD ["command"]\n')
    cases = {
        "entry command\n": {},
        "entry other words\n": {"command": ["other", "words"]},
        "mine\n": {"entrypoint": ["echo", "mine"]},
        "mine too\n": {"entrypoint": ["echo", "mine"], "command": ["too"]},
    }
    for printed, overrides in cases.items():
        with project.engine.run(image, **overrides) as container:
            assert container.wait(timeout=30) == 0
            assert container.logs() == printed


def test_what_a_step_writes_is_led_nowhere_outside_its_layer(project, tmp_path):
    """A privileged step can take this machine's Python away from where it is shown, and make the way to it a link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    python = os.path.realpath(sys.prefix)
    way = os.path.dirname(python)
    if way.startswith("/usr"):
        pytest.skip("this machine's Python is none of its own directories")
    attack = f"touch {python}/planted && umount {python} && cd / && rm -rf {way} && ln -s {outside} {way}"
    with pytest.raises(BuildError, match="Not a directory"):
        project.build(f"FROM capsule/host\nRUN --security=insecure {attack}\n")
    assert not any(outside.iterdir())
