"""The filter of system calls that every command inherits: what it refuses, and who has none."""

import os
import textwrap

import pytest

# Calls by number, so that no library stands between: name, number on x86_64 and on aarch64, arguments.
TRIED = {
    "unshare": (272, 97, 0x10000000),  # CLONE_NEWUSER: with it, every capability could be had again
    "clone3": (435, 435, 0, 0),
    "keyctl": (250, 219, 0, 0),
    "add_key": (248, 217, 0, 0, 0, 0, 0),
    "bpf": (321, 280, 0, 0, 0),
    "io_uring_setup": (425, 425, 1, 0),
    "userfaultfd": (323, 282, 0),
    "perf_event_open": (298, 241, 0, 0, -1, -1, 0),
    "open_by_handle_at": (304, 265, -100, 0, 0),
    "mount": (165, 40, 0, 0, 0, 0, 0),
    "fsopen": (430, 430, 0, 0),
    "kexec_load": (246, 104, 0, 0, 0, 0),
    "socket AF_VSOCK": (41, 198, 40, 1, 0),
    "socket AF_ALG": (41, 198, 38, 5, 0),
    "personality": (135, 92, 0x0040000),  # ADDR_NO_RANDOMIZE
    "a call of tomorrow": (999, 999),
}


@pytest.fixture(scope="module")
def tried():
    """``tried(container, user)``: the errno by which each of ``TRIED`` is answered, by name."""
    script = textwrap.dedent(
        f"""
        import ctypes, errno, os
        libc = ctypes.CDLL(None, use_errno=True)
        for name, (x86_64, aarch64, *arguments) in {TRIED!r}.items():
            number = x86_64 if os.uname().machine == "x86_64" else aarch64
            pid = os.fork()
            if pid == 0:  # a call that is let through may change who makes it
                ctypes.set_errno(0)
                libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
                os._exit(ctypes.get_errno())
            print(name, errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "done"), sep="=")
        """
    )

    def ask(container, user=None):
        lines = container.exec(["python3", "-c", script], user=user, check=True).stdout.splitlines()
        return dict(line.split("=") for line in lines)

    return ask


EXPECTED = dict.fromkeys(TRIED, "EPERM") | dict.fromkeys(["clone3", "a call of tomorrow"], "ENOSYS")


def filters_of(container, pid):
    status = container.read_text(f"/proc/{pid}/status")
    return [line.split()[1] for line in status.splitlines() if line.startswith("Seccomp")]


def test_what_no_command_may_call(host, tried):
    assert tried(host) == EXPECTED


@pytest.mark.identities("root", "range")
def test_another_user_is_under_the_same_filter(host, tried):
    assert tried(host, user="nobody") == EXPECTED


def test_every_command_is_under_one_filter_and_init_too(host):
    for _ in range(3):  # it is inherited from init, not installed for each
        assert host.exec("grep ^Seccomp /proc/self/status").stdout.split() == ["Seccomp:", "2", "Seccomp_filters:", "1"]
    assert filters_of(host, 1) == ["2", "1"]


def test_a_capability_unlocks_its_calls(engine, tried):
    with engine.run("capsule/host", command=[], cap_add=["SYS_ADMIN"]) as container:
        answers = tried(container)
        assert answers["unshare"] == "done"
        assert answers["mount"] != "EPERM"
        assert answers["keyctl"] == "EPERM"
    with engine.run("capsule/host", command=[], cap_drop=["SYS_CHROOT"]) as container:
        chroot = "import os; os.chroot('/')"
        assert "PermissionError" in container.exec(["python3", "-c", chroot]).stderr


def test_a_privileged_container_has_none(engine, tried):
    with engine.run("capsule/host", command=[], privileged=True) as container:
        assert container.exec("grep ^Seccomp: /proc/self/status").stdout.split() == ["Seccomp:", "0"]
        assert tried(container)["keyctl"] != "EPERM"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only there a program changes its calling convention so")
def test_the_other_calling_convention_is_no_way_around(host):
    """i386 calls have other numbers, and ``int 0x80`` makes them from any program."""
    script = textwrap.dedent(
        r"""
        import ctypes, mmap, sys
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        number, argument = (int(word).to_bytes(4, "little") for word in sys.argv[1:])
        code.write(b"\x53\xb8" + number + b"\xbb" + argument + b"\xcd\x80\x5b\xc3")  # push, mov, mov, int, pop, ret
        call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        print(call())
        """
    )
    getpid = host.exec(["python3", "-c", script, "20", "0"])
    if getpid.exit_code == 139:
        pytest.skip("this kernel knows no i386 programs")
    assert int(getpid.stdout) > 1
    for number, argument in ((310, 0x10000000), (288, 0)):  # unshare(CLONE_NEWUSER), keyctl(KEYCTL_GET_KEYRING_ID)
        assert host.exec(["python3", "-c", script, str(number), str(argument)], check=True).stdout == "-1\n"


def test_build_steps_are_under_it_unless_they_are_insecure(engine, tmp_path, identity):
    (tmp_path / "Dockerfile").write_text(
        "FROM capsule/host\n"
        "RUN grep ^Seccomp_filters: /proc/self/status >/tmp/usual\n"
        "RUN --security=insecure grep ^Seccomp_filters: /proc/self/status >/tmp/insecure\n"
    )
    feigning = 1 if identity == "single" else 0  # the filter that feigns other ids is no restriction
    with engine.run(build=tmp_path, command=[]) as container:
        assert container.read_text("/tmp/usual").split() == ["Seccomp_filters:", str(feigning + 1)]
        assert container.read_text("/tmp/insecure").split() == ["Seccomp_filters:", str(feigning)]


def test_init_goes_on_with_all_that_it_does(engine, tmp_path):
    """What init itself needs is allowed to it, with no capability left as well."""
    (tmp_path / "file").write_text("content")
    with engine.run("capsule/host", command=[], cap_drop=["ALL"]) as container:
        container.copy_in(tmp_path / "file", "/srv/new/folder/file")
        container.copy_out("/srv/new", tmp_path / "out")
        assert (tmp_path / "out/folder/file").read_text() == "content"
        assert container.popen(["true"], tty=True).wait() == 0
        assert "A /srv/new" in map(str, container.diff())
        assert container.commit().layers
