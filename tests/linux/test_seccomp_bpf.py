"""The compiler of rules, held against a plain reading of them by a BPF machine of a few lines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capsule._linux.seccomp.bpf import ALLOW, LIMIT, Check, Lookup, Range, Rule, compile_filter, fail_with

EPERM, ENOSYS = fail_with(1), fail_with(38)
ONE, OTHER = 0xC000003E, 0x40000003


def plain(ranges, number, arguments):
    """The same, read off the rules."""
    decision = [entry.decision for entry in ranges if entry.first <= number][-1]
    if isinstance(decision, Lookup):
        return plain(decision.ranges, arguments[decision.argument] & 0xFFFFFFFF, arguments)
    for rule in decision:
        if all((arguments[c.argument] & c.mask == c.value) != c.negated for c in rule.checks):
            return rule.action
    raise AssertionError("the last rule of a decision has no checks")


def test_a_call_is_found_by_its_number(answer):
    program = compile_filter({ONE: [Range(0, (Rule(ALLOW),)), Range(7, (Rule(EPERM),)), Range(9, (Rule(ALLOW),))]}, 0)
    assert [answer(program, number) for number in (0, 6, 7, 8, 9, 0xFFFFFFFF)] == [
        ALLOW, ALLOW, EPERM, EPERM, ALLOW, ALLOW,
    ]  # fmt: skip


def test_each_calling_convention_has_a_tree_of_its_own(answer):
    program = compile_filter({ONE: [Range(0, (Rule(ALLOW),))], OTHER: [Range(0, (Rule(ENOSYS),))]}, EPERM)
    assert [answer(program, 3, convention) for convention in (ONE, OTHER, 0x1234)] == [ALLOW, ENOSYS, EPERM]


def test_all_64_bits_of_an_argument_count(answer):
    program = compile_filter({ONE: [Range(0, (Rule(ALLOW, (Check(5, 0xFFFFFFFF),)), Rule(EPERM)))]}, 0)
    for value, expected in ((0xFFFFFFFF, ALLOW), (0x1FFFFFFFF, EPERM), (2**64 - 1, EPERM), (0, EPERM)):
        assert answer(program, 0, arguments=(0, 0, 0, 0, 0, value)) == expected


def test_a_mask_may_span_both_halves(answer):
    check = Check(2, 0x1_00000001, mask=0xF_0000000F)
    program = compile_filter({ONE: [Range(0, (Rule(ALLOW, (check,)), Rule(EPERM)))]}, 0)
    for value, expected in ((0x1_00000001, ALLOW), (0xFF1_00000FF1, ALLOW), (0x2_00000001, EPERM), (1, EPERM)):
        assert answer(program, 0, arguments=(0, 0, value, 0, 0, 0)) == expected


def test_a_jump_may_be_longer_than_a_byte_can_say(answer):
    """Three hundred calls with an argument of their own each: branches are a thousand instructions apart."""
    ranges = [Range(n, (Rule(fail_with(n), (Check(n % 6, n << 20),)), Rule(ALLOW))) for n in range(300)]
    program = compile_filter({ONE: ranges, OTHER: ranges}, EPERM)
    for number in range(0, 300, 7):
        arguments = [0] * 6
        arguments[number % 6] = number << 20
        assert answer(program, number, OTHER, tuple(arguments)) == fail_with(number)
        arguments[number % 6] += 1
        assert answer(program, number, ONE, tuple(arguments)) == ALLOW


def test_a_program_that_is_too_long_is_refused():
    ranges = [Range(n, (Rule(fail_with(n), (Check(0, n),)), Rule(ALLOW))) for n in range(LIMIT)]
    with pytest.raises(ValueError, match=f"longer than {LIMIT}"):
        compile_filter({ONE: ranges}, EPERM)


words = st.sampled_from([0, 1, 8, 0xFFFFFFFF, 0x1_00000000, 0x1_00000001, 0x7E020000, 2**63, 2**64 - 1])
checks = st.builds(Check, st.integers(0, 5), words, words, st.booleans())
actions = st.sampled_from([ALLOW, EPERM, ENOSYS, fail_with(0)])
rules = st.builds(
    lambda rules, last: (*rules, Rule(last)),
    st.lists(st.builds(Rule, actions, st.lists(checks, max_size=3).map(tuple)), max_size=3),
    actions,
)


def ranges(decisions, firsts, size):
    return st.builds(
        lambda firsts, found: [
            Range(first, decision) for first, decision in zip([0, *sorted(firsts)], found, strict=False)
        ],
        st.sets(firsts, max_size=size),
        st.lists(decisions, min_size=1, max_size=size),
    )


halves = st.integers(1, 0xFFFFFFFF) | st.sampled_from([1, 8, 0x7E020000, 0xFFFFFFFF])
lookups = st.builds(Lookup, st.integers(0, 5), ranges(rules, halves, 8).map(tuple))
tables = ranges(rules | lookups, st.integers(1, 40), 30)


@settings(max_examples=150, deadline=None)
@given(tables, tables, st.lists(st.tuples(st.integers(0, 45), st.tuples(*[words] * 6)), min_size=1, max_size=20))
def test_any_rules_mean_what_they_say(answer, one, other, calls):
    program = compile_filter({ONE: one, OTHER: other}, EPERM)
    for number, arguments in calls:
        assert answer(program, number, ONE, arguments) == plain(one, number, arguments)
        assert answer(program, number, OTHER, arguments) == plain(other, number, arguments)
