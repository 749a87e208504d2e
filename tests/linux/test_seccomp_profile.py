"""What the default filter answers, on each machine, held against what moby's profile and runc make of a call."""

import functools

import pytest

from pytest_capsule._linux.capabilities import DEFAULT, NAMES
from pytest_capsule._linux.seccomp.bpf import ALLOW, fail_with
from pytest_capsule._linux.seccomp.filters import default_filter
from pytest_capsule._linux.seccomp.syscall_numbers import conventions

EPERM, ENOSYS = fail_with(1), fail_with(38)
NAMESPACES = {"NEWNS": 0x00020000, "NEWUTS": 0x04000000, "NEWIPC": 0x08000000, "NEWUSER": 0x10000000}
NAMESPACES |= {"NEWPID": 0x20000000, "NEWNET": 0x40000000, "NEWCGROUP": 0x02000000}
# What a container of Docker may not call, whatever capabilities it gets: no rule of the profile names them.
NEVER = (
    "add_key request_key keyctl io_uring_setup io_uring_enter io_uring_register kexec_load userfaultfd pivot_root "
    "swapon swapoff move_pages migrate_pages"
).split()
WITH = {
    "SYS_ADMIN": "mount umount2 unshare setns fsopen open_tree bpf perf_event_open quotactl sethostname clone3",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "init_module finit_module delete_module",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_TIME": "settimeofday clock_settime",
    "SYS_TTY_CONFIG": "vhangup",
    "SYS_NICE": "mbind set_mempolicy get_mempolicy",
    "SYSLOG": "syslog",
    "BPF": "bpf",
    "PERFMON": "perf_event_open",
}
WITH = {capability: calls.split() for capability, calls in WITH.items()}
CONVENTIONS = [(machine, one) for machine in ("x86_64", "aarch64") for one in conventions(machine)]
each_convention = pytest.mark.parametrize(
    ("machine", "convention"), CONVENTIONS, ids=[convention.name for _, convention in CONVENTIONS]
)
compiled = functools.cache(default_filter)


@pytest.fixture
def answers(answer):
    """``answers(machine, convention, name)``: what the default filter makes of the call of that name."""

    def ask(machine, convention, name, *arguments, capabilities=DEFAULT):
        program = compiled(frozenset(capabilities), machine)
        padded = (*arguments, *(0,) * (6 - len(arguments)))
        return answer(program, convention.numbers[name], convention.audit, padded)

    return ask


@each_convention
def test_what_every_program_needs_is_allowed(answers, machine, convention):
    for name in "read write openat execve exit_group ptrace prctl seccomp landlock_create_ruleset statx".split():
        assert answers(machine, convention, name) == ALLOW, name


@each_convention
def test_what_no_capability_unlocks(answers, machine, convention):
    for name in {*NEVER} & convention.numbers.keys():
        for capabilities in (DEFAULT, set(NAMES)):
            assert answers(machine, convention, name, capabilities=capabilities) == EPERM, name


@each_convention
@pytest.mark.parametrize("capability", WITH)
def test_what_a_capability_unlocks(answers, machine, convention, capability):
    for name in {*WITH[capability]} & convention.numbers.keys():
        refused = ENOSYS if name == "clone3" else EPERM
        assert answers(machine, convention, name, capabilities=DEFAULT - {capability}) == refused, name
        assert answers(machine, convention, name, capabilities={capability}) == ALLOW, name


@each_convention
def test_a_namespace_takes_sys_admin(answers, machine, convention):
    thread = 0x003D0F00  # what pthread_create(3) passes
    assert answers(machine, convention, "clone", thread) == ALLOW
    for flag in NAMESPACES.values():
        assert answers(machine, convention, "clone", thread | flag) == EPERM
        assert answers(machine, convention, "clone", flag, capabilities={"SYS_ADMIN"}) == ALLOW


@each_convention
def test_sockets_go_by_their_family(answers, machine, convention):
    refused = {family for family in range(60) if answers(machine, convention, "socket", family) == EPERM}
    # moby, seccomp/default_linux.go: gone from the kernel, AF_ALG, AF_VSOCK, and what nobody knows yet
    assert refused == {12, 19, 20, 23, 25, 34, 37, 38, 40, *range(46, 60)}
    vsock, alg, inet = 40, 38, 2
    for family in (vsock, alg):  # the kernel takes an int: what is above makes no other socket
        assert answers(machine, convention, "socket", 1 << 32 | family) == EPERM
    assert answers(machine, convention, "socket", inet) == ALLOW


@each_convention
def test_personalities(answers, machine, convention):
    for value in (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert answers(machine, convention, "personality", value) == ALLOW
    no_randomisation = 0x0040000
    assert answers(machine, convention, "personality", no_randomisation) == EPERM


@each_convention
def test_what_is_newer_than_the_profile_is_not_there(answer, machine, convention):
    """As under runc: with EPERM a library would give up where it can fall back."""
    program = default_filter(DEFAULT, machine)
    assert answer(program, convention.numbers["removexattrat"], convention.audit) == ALLOW
    for number in (convention.numbers["removexattrat"] + 1, 600, 0x3FFFFFFF):
        assert answer(program, number, convention.audit) == ENOSYS


def test_x32_is_not_there(answer):
    native = conventions("x86_64")[0]
    assert answer(default_filter(DEFAULT, "x86_64"), 1 << 30 | native.numbers["read"], native.audit) == ENOSYS


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_another_calling_convention_is_refused(answer, machine):
    riscv64, x86_64 = 0xC00000F3, conventions("x86_64")[0]
    assert answer(default_filter(DEFAULT, machine), x86_64.numbers["read"], riscv64) == EPERM


def test_a_machine_without_a_table_is_refused():
    with pytest.raises(ValueError, match="s390x"):
        default_filter(DEFAULT, "s390x")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_call_costs_a_few_steps(machine):
    """A tree of halves: some 240 instructions, of which a call meets about ten."""
    assert len(default_filter(DEFAULT, machine)) // 8 < 300
