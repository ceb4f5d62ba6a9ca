"""Tables of latencies and draws from them: what a table may hold, what `--latency` may say, and that draws follow the table and repeat."""

from __future__ import annotations

import statistics
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.errors import InputError
from fsd_core.latency import VERBS, Draws, Latency, Row, Table, load, names
from fsd_core.latency.draws import quantile_ms

MINE = """
title = "my account"
[put]
p50_ms = 20
p90_ms = 30
p99_ms = 60
mb_per_s = 50
source = "fsd measure"
as_of = "2026-11-01"
confidence = "high"
[read]
mb_per_s = 90
"""


def table(**rows: Row) -> Table:
    return Table(name="test", title="", as_of="", hour_share=0.18, function_share=0.08, rows=rows, links={})


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


# Tables


@pytest.mark.parametrize("name", ["aws", "azure", "gcp"])
def test_every_row_that_comes_with_fsd_has_a_source_a_date_and_a_confidence(name: str) -> None:
    found = load(name)
    for verb, row in (*found.rows.items(), *found.links.items()):
        assert row.source, verb
        assert row.as_of, verb
        assert row.confidence, verb
    assert found.rows.keys() >= {"publish", "deliver", "ack", "put", "get", "list", "connect", "start_cold", "start_warm"}
    assert found.links.keys() == {"read", "write"}
    assert found.as_of
    assert found.rows.keys() <= VERBS.keys()


@pytest.mark.parametrize("name", ["aws", "azure", "gcp"])
def test_the_page_has_the_figures_of_every_table(name: str) -> None:
    found, page = load(name), (Path(__file__).parents[1] / "docs" / "latency.md").read_text()
    section = page.partition(f"(`{name}`)")[2].partition("\n#")[0]
    for verb, row in found.rows.items():
        rate = f"{row.mb_per_s:g}" if row.mb_per_s else "-"
        assert f"| {verb} | {row.p50_ms:g} | {row.p90_ms:g} | {row.p99_ms:g} | {rate} |" in section
    for side, link in found.links.items():
        assert f"| {side} | - | - | - | {link.mb_per_s:g} |" in section
    assert all(f"| `{verb}` | {words} |" in page for verb, words in VERBS.items())


def test_the_tables_that_come_with_fsd() -> None:
    assert set(names()) >= {"aws", "azure", "gcp"}


def test_a_file_of_the_user(mine: Path) -> None:
    latency = Latency.parse(f"{mine},scale=2,seed=3")
    assert (latency.table.title, latency.seed, latency.scale) == ("my account", 3, 2.0)
    assert latency.table.rows["put"].mb_per_s == 50
    assert latency.table.links["read"].mb_per_s == 90
    assert latency.about() == {"table": str(mine), "seed": 3, "scale": 2.0}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[put]", "[putt]", "putt: unknown key; did you mean put?"),
        ("p50_ms = 20", "p50_ms = -20", "[put] p50_ms = -20: expected a number of milliseconds above 0"),
        ("p50_ms = 20", "p50_ms = nan", "[put] p50_ms = nan: expected"),
        ("p50_ms = 20", "", "[put] p50_ms: is missing: expected"),
        ("p50_ms = 20", "p50_ms = 31", "p50_ms, p90_ms, p99_ms = 31, 30, 60: expected each at least as large as the one before"),
        ("p50_ms = 20", "p50_ms = 20\np51_ms = 3", "[put] p51_ms: unknown key; did you mean p50_ms?"),
        ("p50_ms = 20", "p50_ms = 20\nmax_ms = 59", "[put] max_ms = 59: expected at least p99_ms, 60"),
        ("p50_ms = 20", "p50_ms = 20\nsecond_share = 0.5", "[put] second_ms: is missing"),
        ("p50_ms = 20", "p50_ms = 20\nsecond_share = 0.5\nsecond_ms = 10", "[put] second_ms = 10: expected at least p50_ms, 20"),
        ("mb_per_s = 90", "mb_per_s = -1", "[read] mb_per_s = -1: expected a number of MB/s from 0.01"),
        ('confidence = "high"', 'confidence = "sure"', "[put] confidence = 'sure': expected one of high, medium, low"),
        ('title = "my account"', "hour_share = 0.7\nfunction_share = 0.4", "hour_share + function_share = 1.1: expected at most 1"),
        ('title = "my account"', "put = 3", "is not TOML"),
        ("[read]", "[read", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_one_line(mine: Path, old: str, new: str, words: str) -> None:
    mine.write_text(MINE.replace(old, new))
    with pytest.raises(InputError) as raised:
        Latency.parse(str(mine))
    assert words in str(raised.value)
    assert str(mine) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_without_figures_is_refused(mine: Path) -> None:
    mine.write_text("[read]\nmb_per_s = 3\n")
    with pytest.raises(InputError, match=r"has no figures: expected at least one of the tables \[publish\]"):
        Latency.parse(str(mine))


# The flag


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "latency '': unknown; expected one of aws, azure, gcp"),
        ("awz", "latency 'awz': unknown; did you mean aws?"),
        ("/no/such.toml", "latency /no/such.toml: no such file"),
        ("aws,seed=-1", "latency: seed = '-1': expected a whole number from 0"),
        ("aws,seed=1.5", "latency: seed = '1.5': expected"),
        ("aws,seed=", "latency: seed = '': expected"),
        ("aws,scale=0", "latency: scale = 0.0: expected a number above 0"),
        ("aws,scale=-1", "latency: scale = '-1': expected a number above 0"),
        ("aws,scale=x", "latency: scale = 'x': expected a number above 0"),
        ("aws,warm=2", "latency: warm = 2.0: expected a number from 0 to 1"),
        ("aws,speed=1", "latency: 'speed=1': expected NAME=VALUE, NAME one of seed, scale, warm"),
        ("aws,seed=1,seed=2", "latency: seed is given twice"),
        ("aws,", "latency: '': expected NAME=VALUE"),
    ],
)
def test_a_wrong_flag_is_refused_with_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        Latency.parse(text)
    assert str(raised.value).startswith(words)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["aws", "azure", "gcp"])
def test_a_worker_reads_the_same_figures(name: str) -> None:
    latency = Latency.parse(f"{name},seed=4,scale=0.25,warm=.5")
    stored = Latency.unpack(latency.pack())
    assert (stored.table.name, stored.seed, stored.scale, stored.warm) == (name, 4, 0.25, 0.5)
    first, second = Draws(latency, 3, 1), Draws(stored, 3, 1)
    assert [first.next(verb) for verb in VERBS for _ in range(5)] == [second.next(verb) for verb in VERBS for _ in range(5)]
    assert stored.step_s == latency.step_s


# Draws

PUT = Row(p50_ms=40, p90_ms=75, p99_ms=123)


def test_quantiles_of_a_row() -> None:
    assert quantile_ms(PUT, 0) == 40
    assert quantile_ms(PUT, 1.2815515655446) == pytest.approx(75)
    assert quantile_ms(PUT, 2.3263478740408) == pytest.approx(123)
    assert quantile_ms(PUT, 3.0902323061678) == pytest.approx(123 * 10**0.25, rel=1e-4)  # p99.9; S3 measured 205 ms


@given(st.floats(-6, 6), st.floats(0, 6))
def test_quantiles_ascend(z: float, step: float) -> None:
    assert quantile_ms(PUT, z) <= quantile_ms(PUT, z + step) * (1 + 1e-9)


def test_draws_of_many_runs_follow_the_row() -> None:
    draws = [Draws(Latency(table(put=PUT), seed), rank, 0) for seed in range(200) for rank in range(10)]
    found = sorted(1000 * each.next("put") for each in draws for _ in range(10))
    p50, p90, p99 = (found[len(found) * share // 100] for share in (50, 90, 99))
    assert (p50, p90, p99) == (pytest.approx(40, rel=0.1), pytest.approx(75, rel=0.1), pytest.approx(123, rel=0.1))
    assert found[-1] <= PUT.longest_ms


def test_a_draw_depends_on_its_key_alone() -> None:
    def draws(seed: int, rank: int, attempt: int, verb: str = "put") -> list[float]:
        each = Draws(Latency(table(put=PUT, get=PUT), seed), rank, attempt)
        return [each.next(verb) for _ in range(4)]

    first = draws(1, 0, 0)
    assert len(set(first)) == 4
    assert first == draws(1, 0, 0)
    assert all(first != other for other in (draws(2, 0, 0), draws(1, 1, 0), draws(1, 0, 1), draws(1, 0, 0, "get")))
    mixed = Draws(Latency(table(put=PUT, get=PUT), 1), 0, 0)
    interleaved = [(mixed.next("get"), mixed.next("put"))[1] for _ in range(4)]
    assert interleaved == first


def test_the_hour_is_common_to_the_functions_of_a_run() -> None:
    def median(seed: int, rank: int) -> float:
        each = Draws(Latency(attrs.evolve(table(put=PUT), hour_share=0.5, function_share=0.0), seed), rank, 0)
        return statistics.median(each.next("put") for _ in range(400))

    by_seed = [[median(seed, rank) for rank in range(3)] for seed in range(6)]
    within = max(max(ranks) / min(ranks) for ranks in by_seed)
    between = max(map(max, by_seed)) / min(map(min, by_seed))
    assert within < 1.2 < between


def test_a_scale_multiplies_draws() -> None:
    one, half = (Draws(Latency(table(put=PUT), 1, scale), 0, 0) for scale in (1.0, 0.5))
    assert [half.next("put") for _ in range(5)] == pytest.approx([one.next("put") / 2 for _ in range(5)])


def test_a_verb_without_a_row_takes_no_time() -> None:
    assert Draws(Latency(table(put=PUT)), 0, 0).next("get") == 0


def test_starts_are_cold_unless_the_flag_says_otherwise() -> None:
    rows = table(start_cold=Row(p50_ms=1000, p90_ms=1000, p99_ms=1000), start_warm=Row(p50_ms=10, p90_ms=10, p99_ms=10))
    cold, warm, some = (Draws(Latency(rows, 1, 1.0, share), 0, 0) for share in (0.0, 1.0, 0.5))
    assert min(cold.start() for _ in range(50)) > 0.9
    assert max(warm.start() for _ in range(50)) < 0.2
    assert 10 < sum(some.start() > 0.9 for _ in range(50)) < 40


def test_a_row_of_two_kinds() -> None:
    row = Row(p50_ms=20, p90_ms=26.4, p99_ms=31.6, second_ms=100.0, second_share=0.5, max_ms=500.0)
    each = Draws(Latency(table(ack=row), 1), 0, 0)
    found = [1000 * each.next("ack") for _ in range(1000)]
    assert 400 < sum(ms < 50 for ms in found) < 600
    assert statistics.median(ms for ms in found if ms > 50) == pytest.approx(100, rel=0.15)
