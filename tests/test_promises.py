"""What an audit says in words."""

from __future__ import annotations

from fsd_core.providers.promises import REPAIR, exactly, same, shown, unread


def test_values_that_differ_are_named_with_their_resource() -> None:
    held = same("n", {"a": True, "b": True}, True)
    assert (held.holds, held.found, held.expected, held.advice) == (True, "yes, 2 of 2", "yes", "")
    broken = same("n", {"a": None, "b": True, "c": False}, True)
    assert (broken.holds, broken.found, broken.expected, broken.advice) == (False, "a: none; c: no", "yes", REPAIR)


def test_entries_too_many_and_missing_are_named_and_a_long_list_is_cut() -> None:
    held = exactly("n", ["x"], ["x"], "role")
    assert (held.holds, held.found) == (True, "1 role, as this version sets it")
    assert exactly("n", [], (), "role").found == "no role"
    broken = exactly("n", ["x", "z"], ["x", "y"], "role", "do this")
    assert (broken.holds, broken.found, broken.advice) == (False, "too many: z; missing: y", "do this")
    assert broken.expected == "2 roles, as this version sets them"
    many = exactly("n", [str(number) for number in range(8)], (), "role")
    assert many.found == "too many: 0, 1, 2, 3, 4, and 3 more"


def test_what_is_only_shown_holds() -> None:
    fact = shown("n", "yesterday")
    assert (fact.holds, fact.verdict, fact.found) == (True, "shown", "yesterday")


def test_what_nobody_read_does_not_hold() -> None:
    broken = unread("n", "these credentials lack the role R", True, "get it")
    assert (broken.holds, broken.verdict, broken.expected, broken.advice) == (False, "FAILS", "yes", "get it")
    assert broken.found == "not read: these credentials lack the role R"
