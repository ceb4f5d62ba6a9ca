"""Reading tables strictly: what fits is kept as it is, and any other key or value is named in one line."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsd_core.common import fields
from fsd_core.common.fields import Kind, key, read
from fsd_core.errors import InputError


@attrs.frozen(kw_only=True)
class Example:
    name: str = key(fields.matching(r"[a-z]+", "lower-case letters"))
    count: int = key(fields.integer(1, 10, "seconds"), default=3)
    share: float = key(fields.number(0, 1), default=0.5)
    channel: str = key(fields.choice("queue", "object"), default="queue")
    ranks: list[int] = key(fields.listed(fields.integer(0)), default=attrs.Factory(list))
    region: str | None = key(fields.nullable(fields.text()), default=None)
    size: int = key(fields.choice(512, 2048), default=512)


def test_what_fits_is_kept_and_the_rest_is_the_default() -> None:
    made = read(Example, {"name": "a", "count": 4.0, "share": 1, "ranks": [0, 2.0]}, "x: ")
    assert made == Example(name="a", count=4, share=1.0, ranks=[0, 2])
    assert [type(value) for value in (made.count, made.share, made.ranks[1])] == [int, float, int]
    assert read(Example, {"name": "a", "other": 1}, "x: ", known=("other",)) == Example(name="a")


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({}, "x: name: is missing: expected lower-case letters"),
        ({"name": "a", "cuont": 1}, "x: cuont: unknown key; did you mean count?"),
        ({"name": "a", "zzz": 1}, "x: zzz: unknown key; known are name, count, share, channel, ranks, region, size"),
        ({"name": "A"}, "x: name = 'A': expected lower-case letters"),
        ({"name": "a", "count": True}, "x: count = True: expected a whole number of seconds from 1 to 10"),
        ({"name": "a", "count": 2.9}, "x: count = 2.9: expected a whole number of seconds from 1 to 10"),
        ({"name": "a", "count": "4"}, "x: count = '4': expected a whole number of seconds from 1 to 10"),
        ({"name": "a", "share": 1.5}, "x: share = 1.5: expected a number from 0 to 1"),
        ({"name": "a", "share": float("nan")}, "x: share = nan: expected a number from 0 to 1"),
        ({"name": "a", "channel": "quue"}, "x: channel = 'quue': expected one of queue, object"),
        ({"name": "a", "ranks": "abc"}, "x: ranks = 'abc': expected a list, each item a whole number of at least 0"),
        ({"name": "a", "ranks": [1, True]}, "x: ranks = [1, True]: expected a list, each item a whole number of at least 0"),
        ({"name": "a", "region": ""}, "x: region = '': expected a text that is not empty, or null"),
        (
            {"name": "a", "count": 10**5000},
            "x: count = a number above 1e+18: expected a whole number of seconds from 1 to 10",
        ),
        ({"name": "a", "size": 1024}, "x: size = 1024: expected one of 512, 2048"),
        ({"name": "a", "size": True}, "x: size = True: expected one of 512, 2048"),
    ],
)
def test_what_is_wrong_is_named(table: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        read(Example, table, "x: ")
    assert str(caught.value) == line


def test_no_error_shows_a_value_that_may_hold_a_secret() -> None:
    kind = fields.matching("[a-z]+", "a name", secret=True)
    with pytest.raises(InputError) as caught:
        kind.check("a:password", "NAME = ")
    assert str(caught.value) == "NAME = (not shown, it may hold a secret): expected a name"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
KINDS = {
    "integer": fields.integer(-5),
    "integer within": fields.integer(0, 9),
    "number": fields.number(),
    "any number": fields.number(-math.inf),
    "number above": fields.number(0, 10, above=True),
    "text": fields.text(),
    "choice of numbers": fields.choice(1, 2),
    "choice": fields.choice("a", "b"),
    "boolean": fields.boolean(),
    "nullable": fields.nullable(fields.integer(0)),
    "listed": fields.listed(fields.text(), filled=True),
    "table": fields.table(),
    "matching": fields.matching("a+", "the letter a"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(max_examples=50)
@given(value=ANYTHING)
def test_any_value_is_kept_unchanged_or_refused_in_one_line(kind: Kind, value: Any) -> None:
    if kind.holds(value):
        assert kind.check(value, "key = ") == value
        return
    with pytest.raises(InputError) as caught:
        kind.check(value, "key = ")
    line = str(caught.value)
    assert line.startswith("key = ")
    assert line.endswith(f": expected {kind.expected}")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("integer", "7", 7), ("number", "0.5", 0.5), ("boolean", "Yes", True), ("boolean", "0", False), ("choice", "a", "a")],
)
def test_a_flags_text_is_read(kind: str, text: str, value: Any) -> None:
    assert KINDS[kind].read_text(text, "--key ") == value


def test_large_numbers_and_whole_numbers_written_with_a_point() -> None:
    assert fields.number(huge=True).check(1e30, "--clip ") == 1e30
    with pytest.raises(InputError, match=r"a number above 1e\+18"):
        fields.number().check(1e30, "--clip ")
    assert repr(fields.choice(512, 2048).check(2048.0, "memory_mb = ")) == "2048"
    assert not fields.choice(1, 2).holds(True)


@pytest.mark.parametrize(
    ("kind", "text"), [("integer", "7.5"), ("integer", "-6"), ("number", "x"), ("number", "inf"), ("boolean", "maybe")]
)
def test_a_flags_text_that_is_wrong_is_named(kind: str, text: str) -> None:
    with pytest.raises(InputError, match=f"^--key '?{text}(.0)?'?: expected {KINDS[kind].expected}$"):
        KINDS[kind].read_text(text, "--key ")


def test_a_number_says_its_bounds() -> None:
    kinds = [fields.number(-math.inf), fields.number(0.1, 1e9, "seconds"), fields.number(0, above=True), fields.number(0, 1, above=True)]
    assert [kind.expected for kind in kinds] == [
        "a finite number",
        "a number of seconds from 0.1 to 1000000000",
        "a number above 0",
        "a number above 0 and of at most 1",
    ]


def test_the_nearest_name_is_proposed() -> None:
    assert fields.nearest("workres", ["workers", "seed"]) == "workers"
    assert fields.nearest("workres", ["workers", "seed"], 0.95) is None
    assert fields.suggestion("zzz", ["workers", "seed"]) == "known are workers, seed"
