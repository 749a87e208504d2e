"""The ids of a process as credentials(7) has them, without a process."""

import pytest

from pytest_capsule.runtime.credentials import Credentials

KEEP = 0xFFFFFFFF
USER = Credentials((5, 6, 7), (5, 6, 7), ())
ROOT = Credentials()


@pytest.mark.parametrize(
    ("before", "name", "arguments", "uids"),
    [
        (ROOT, "setuid", (5,), (5, 5, 5)),
        (USER, "setuid", (7,), (5, 7, 7)),
        (USER, "setuid", (5,), (5, 5, 7)),
        (USER, "setuid", (6,), None),  # the effective id alone gives no right to it
        (USER, "setuid", (0,), None),
        (ROOT, "setreuid", (5, KEEP), (5, 0, 0)),
        (ROOT, "setreuid", (KEEP, 5), (0, 5, 5)),
        (USER, "setreuid", (KEEP, 5), (5, 5, 7)),
        (USER, "setreuid", (6, 7), (6, 7, 7)),
        (USER, "setreuid", (7, KEEP), None),
        (ROOT, "setresuid", (1, KEEP, 3), (1, 0, 3)),
        (USER, "setresuid", (7, 5, 6), (7, 5, 6)),
        (USER, "setresuid", (8, KEEP, KEEP), None),
        (USER, "setfsuid", (9,), (5, 6, 7)),
        (Credentials((5, 5, 5), keeps=True), "setuid", (9,), (9, 9, 9)),
    ],
)
def test_what_each_call_makes_of_them(before, name, arguments, uids):
    if uids is None:
        with pytest.raises(PermissionError):
            before.after(name, arguments)
    else:
        assert before.after(name, arguments).uids == uids


def test_groups_change_by_the_same_rules_with_the_rights_of_the_user():
    assert ROOT.after("setgid", (5,)).gids == (5, 5, 5)
    assert USER.after("setgid", (7,)).gids == (5, 7, 7)
    with pytest.raises(PermissionError):
        USER.after("setresgid", (8, 8, 8))
    assert ROOT.after("setresgid", (5, 6, 7)).after("setgid", (9,)).gids == (9, 9, 9)  # it is still root


def test_other_groups_are_for_root_to_set():
    assert ROOT.with_groups((1, 2)).groups == (1, 2)
    with pytest.raises(PermissionError):
        USER.with_groups(())


def test_arguments_are_32_bits_wide():
    assert ROOT.after("setuid", (0xFFFFFFFF_00000005,)).uids == (5, 5, 5)
