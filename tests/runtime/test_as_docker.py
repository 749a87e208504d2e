"""What a command sees inside, item by item beside Docker: the same image, the same probe, and a reason for each thing
that is not the same."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import pytest
from peers import docker_daemon

DEADLINE = 60.0
PROBE = """
for file in status limits mountinfo; do echo "== $file"; cat /proc/self/$file; done
echo "== dev"; LC_ALL=C ls -ln --time-style=+ /dev
echo "== env"; env
echo "== fd"; ls /proc/self/fd
echo "== id"; id
echo "== umask"; umask
echo "== cwd"; pwd
echo "== root"; ls -a /
echo "== etc"; cd /etc; stat -c "%n %A %u %g" hosts hostname resolv.conf mtab
echo "== sysctl"; cd /proc/sys; grep . net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range kernel/shmmax
echo "== oom"; cat /proc/self/oom_score_adj
"""
# What is another number in each container, or counts memory and time.
VOLATILE = re.compile(r"Tgid|Pid|PPid|NS\w+|Vm\w+|Rss\w+|SigQ|\w*ctxt_switches|HOSTNAME")


@dataclass(frozen=True)
class Difference:
    """``docker`` and ``ours`` are what each says about ``item`` (patterns, ``None`` where it has none), and why."""

    item: str
    docker: str | None
    ours: str | None
    why: str
    everywhere: bool = True

    def explains(self, item: str, docker: str | None, ours: str | None) -> bool:
        def fits(pattern: str | None, value: str | None) -> bool:
            return value is None if pattern is None else value is not None and bool(re.fullmatch(pattern, value))

        return bool(re.fullmatch(self.item, item)) and fits(self.docker, docker) and fits(self.ours, ours)


FILES = "/proc/(keys|timer_list|latency_stats|kcore|sched_debug|timer_stats)"
FOLDERS = "/(proc/(acpi|scsi|asound)|sys/(firmware|devices/virtual/powercap|.*/thermal_throttle))"
# docs/security.md has the same list for people.
DIFFERENCES = (
    Difference("status NoNewPrivs", "0", "1", "no setuid program helps anybody: Docker's option, our default"),
    Difference("flags /", "r[ow]", "nodev r[ow]", "there is no device cgroup: no mount knows devices instead"),
    Difference("flags /dev", "nosuid rw", "nodev nosuid rw", "the same"),
    Difference("mount /dev/(null|zero|full|random|urandom|tty)", None, "tmpfs", "so each device is a mount of its own"),
    Difference("flags /dev/(null|zero|full|random|urandom|tty)", None, "rw", "the same"),
    Difference(f"flags {FILES}", "nosuid rw", "rw", "a mask of a file is our /dev/null, which is such a mount"),
    Difference("mount /proc/interrupts", None, "tmpfs", "moby masks it since 28.3", everywhere=False),
    Difference("flags /proc/interrupts", None, "rw", "the same", everywhere=False),
    Difference(
        f"flags {FOLDERS}", "ro", "nodev noexec nosuid ro", "an empty mask refuses all it can", everywhere=False
    ),
    Difference(f"mount {FOLDERS}", None, "tmpfs", "moby masks some only since 24.0.7 and 28.3", everywhere=False),
    Difference("mount /etc/(hosts|hostname|resolv.conf)", "[^t].*", "tmpfs", "nothing of ours is on the host's disk"),
    Difference(
        "(mount|flags) /sys/fs/cgroup.*", ".*", None, "it has no group of its own without a limit: none to show"
    ),
    Difference(r"root \.dockerenv", "", None, "it is not Docker"),
    Difference("limits .*", ".*", ".*", "of the daemon; with us, of whoever runs the tests", everywhere=False),
)

VARIANTS = {
    "default": ([], {}),
    "user by name": (["--user", "nobody"], {"user": "nobody"}),
    "user by number": (["--user", "1234:5678"], {"user": "1234:5678"}),
    "one more capability": (["--cap-add", "NET_ADMIN"], {"cap_add": ["NET_ADMIN"]}),
    "one less": (["--cap-drop", "CHOWN"], {"cap_drop": ["CHOWN"]}),
    "none but one": (["--cap-drop", "ALL", "--cap-add", "KILL"], {"cap_drop": ["ALL"], "cap_add": ["KILL"]}),
    "read-only": (["--read-only"], {"read_only": True}),
    "tmpfs": (["--tmpfs", "/ram"], {"tmpfs": ["/ram"]}),
    "working directory": (["--workdir", "/var/new"], {"workdir": "/var/new"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def docker(tmp_path_factory, debian_tar):
    """``docker(options)``: what the probe prints in a container of a daemon of our own, from the same Debian."""
    with docker_daemon(tmp_path_factory.mktemp("docker")) as client:
        subprocess.run(
            [*client, "import", str(debian_tar), "debian"], check=True, capture_output=True, timeout=DEADLINE
        )

        def probe(options):
            command = [*client, "run", "--rm", "--network=none", "--interactive", *options, "debian", "sh", "-s"]
            done = subprocess.run(command, input=PROBE, capture_output=True, text=True, check=True, timeout=DEADLINE)
            return done.stdout

        yield probe


def facts(text: str) -> dict[str, str]:
    """The output of the probe as items, each named by its section and what it is about."""
    found: dict[str, str] = {}
    for section in text.split("== ")[1:]:
        title, *lines = section.rstrip("\n").split("\n")
        if title == "mountinfo":
            found |= _mounts(lines)
            continue
        for line in lines:
            name, value = _item(title, line)
            if not VOLATILE.fullmatch(name):
                found[f"{title} {name}".strip()] = value
    return found


def _mounts(lines: list[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        point, flags = before.split()[4:6]
        found[f"mount {point}"] = after.split()[0]
        found[f"flags {point}"] = " ".join(sorted(set(flags.split(",")) - {"relatime"}))
    return found


def _item(title: str, line: str) -> tuple[str, str]:
    if title == "status":
        name, _, value = line.partition(":")
        return name, " ".join(value.split())
    if title == "limits":
        return line[:25].strip(), " ".join(line[25:].split())
    if title == "etc":
        name, _, value = line.partition(" ")
        return name, value
    if title == "dev":
        fields = line.split()
        name = fields[fields.index("->") - 1] if "->" in fields else fields[-1]
        return name, "a directory" if line.startswith("d") else line
    if title == "env":
        name, _, value = line.partition("=")
        return name, value
    if title == "sysctl":
        name, _, value = line.partition(":")
        return name, value
    return (line, "") if title in ("root", "fd") else ("", line)


def differences(docker: dict[str, str], ours: dict[str, str]) -> list[tuple[str, str | None, str | None]]:
    names = sorted({*docker, *ours})
    return [(name, docker.get(name), ours.get(name)) for name in names if docker.get(name) != ours.get(name)]


@pytest.mark.identities("root")  # a daemon of Docker's wants it; what others see is in test_isolation.py
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_command_sees_what_it_sees_in_docker(engine, debian_image, docker, variant):
    options, keywords = VARIANTS[variant]
    with engine.run(debian_image, command=["sh", "-c", PROBE], network="none", stdin="", **keywords) as container:
        container.wait(DEADLINE)
        ours = facts(container.logs("stdout"))
    found = differences(facts(docker(options)), ours)
    unexplained = [one for one in found if not any(known.explains(*one) for known in DIFFERENCES)]
    assert not unexplained
    gone = [known for known in DIFFERENCES if known.everywhere and not any(known.explains(*one) for one in found)]
    assert not gone, "no difference any more: take it from the list, here and in docs/security.md"
