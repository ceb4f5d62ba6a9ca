"""Tables that `fsd measure` makes: fitted to samples, written, found again in place of those that come with providers, stale, damaged."""

from __future__ import annotations

import datetime
import math
import warnings
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fsd_core
from fsd_core.errors import InputError
from fsd_core.latency import Latency, Row, Table, find, load, measured_table
from fsd_core.latency.draws import quantile_ms
from fsd_core.latency.fit import extra, fitted, quantile, rate, relative_error
from fsd_core.latency.named import measured_file
from fsd_core.latency.table import Link, Measured
from fsd_core.latency.writing import as_text, write
from fsd_core.plan.places import outline_of, place
from fsd_core.plan.predict import Platform

TODAY = datetime.date.today()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def table(provider: str = "aws", region: str = "eu-west-1", days: int = 0, emulator: str = "", **more: object) -> Table:
    day = (TODAY - datetime.timedelta(days=days)).isoformat()
    row = Row(p50_ms=3.5, p90_ms=4.0, p99_ms=5.0, mb_per_s=70.0, confidence="low", as_of=day, source='"quoted" \\ and é')
    return Table(
        name=provider,
        title="mine",
        as_of=day,
        hour_share=0.1,
        function_share=0.2,
        rows={"publish": attrs.evolve(row, mb_per_s=None, second_ms=9.0, second_share=0.25), "put": row},
        links={"read": Link(mb_per_s=90.0)},
        measured=Measured(provider=provider, region=region, emulator=emulator, clock_offset_ms=-0.25, **more),
    )


def kept(made: Table, *, emulator: bool = False) -> Path:
    assert made.measured is not None
    file = measured_file(made.measured.provider, made.measured.region, emulator=emulator)
    write(made, file)
    return file


# Fits


def drawn(row: Row, count: int, seed: int) -> list[float]:
    return [quantile_ms(row, z) for z in np.random.default_rng(seed).standard_normal(count)]


ROWS = st.builds(
    lambda p50, body, tail: Row(p50_ms=p50, p90_ms=p50 * body, p99_ms=p50 * body * tail),
    st.floats(0.05, 5000),
    st.floats(1.02, 4),
    st.floats(1.02, 8),
)


@settings(max_examples=30, derandomize=True)
@given(ROWS, st.sampled_from((100, 300, 2000)), st.integers(0, 10_000))
def test_samples_of_a_known_table_give_its_parameters_back(row: Row, count: int, seed: int) -> None:
    found = fitted(drawn(row, count, seed))
    for p, name in ((0.5, "p50_ms"), (0.9, "p90_ms"), (0.99, "p99_ms")):
        off = math.log(getattr(found, name) / getattr(row, name))
        # Four standard errors. Those of p99 hold for many samples: with 100, the largest two decide, of which the tail has index 4.
        tail = 0.25 * 4 / math.sqrt(count * 0.01) if p == 0.99 else 0.0
        assert abs(off) <= 4 * relative_error(row, p, count) + tail + 1e-3, (name, off)
    assert found.p50_ms <= found.p90_ms <= found.p99_ms


@settings(max_examples=30, derandomize=True)
@given(ROWS, st.integers(1, 99), st.integers(0, 10_000))
def test_few_samples_go_on_with_the_slope_of_the_body(row: Row, count: int, seed: int) -> None:
    samples = drawn(row, count, seed)
    found = fitted(samples)
    assert found.p50_ms <= found.p90_ms <= found.p99_ms <= 2.001 * max(samples)
    assert min(samples) * 0.999 <= found.p50_ms
    assert found.confidence == "low"
    assert f"{count} samples do not show it" in found.note
    assert attrs.evolve(found) == found


def test_a_log_normal_of_few_samples_has_about_its_p99() -> None:
    row = Row(p50_ms=20, p90_ms=20 * math.exp(0.4 * 1.2815515655446004), p99_ms=20 * math.exp(0.4 * 2.3263478740408398))
    found = [fitted(drawn(row, 40, seed)).p99_ms / row.p99_ms for seed in range(40)]
    assert 0.9 < float(np.median(found)) < 1.1
    assert all(0.5 < each < 2 for each in found)


def test_quantiles_of_definition_8() -> None:
    samples = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0]
    for p in (0.01, 0.25, 0.5, 0.9, 0.99):
        assert quantile(samples, p) == pytest.approx(float(np.quantile(samples, p, method="median_unbiased")))


def test_what_a_connection_takes_and_the_rate_of_a_body() -> None:
    assert extra([52, 40, 1], [2, 2, 9]) == [50, 38, 0]
    assert rate([10, 11, 12], [31, 30, 99], 1_000_000) == pytest.approx(50)
    assert rate([10], [10], 1_000_000) is None
    made = fitted([0.00001])
    assert (made.p50_ms, made.p99_ms) == (0.001, 0.001)  # what a table may hold at least


# Files


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = table(speed=0.5, memory_mb=1769.0, receive_messages=7.5, sizes=((512.0, 1e8, 0.25), (1769.0, 4e8, 1.0)))
    file = tmp_path / "new" / "t.toml"
    write(made, file)
    found = load(str(file))
    assert attrs.evolve(found, name=made.name) == made
    assert as_text(found) == file.read_text()
    write(attrs.evolve(made, title="again"), file)
    file.write_text("[put]\n")
    with pytest.raises(InputError, match="exists and fsd did not make it"):
        write(made, file)


def test_a_measured_table_takes_the_place_of_the_one_that_comes_with_the_provider() -> None:
    shipped = load("aws")
    assert (shipped.measured, measured_table("aws"), find("local")) == (None, None, None)
    kept(table())
    kept(table("local", "here"))
    for found in (load("aws"), find("aws"), find("aws", "eu-west-1"), measured_table("aws")):
        assert found is not None
        assert (found.name, found.rows["put"].p50_ms) == ("aws", 3.5)
    latency = Latency.parse("aws,seed=1")
    assert latency.about() == {"table": "aws", "measured": TODAY.isoformat(), "seed": 1}
    assert Latency.unpack(latency.pack()).table.rows["put"].p50_ms == 3.5
    assert find("aws", "us-east-1") == shipped  # of another region
    assert load("gcp").measured is None
    assert find("local") is not None
    plan = fsd_core.make_plan("radixnet:1024:2", "random:6", providers=["aws"])
    assert any(f"latencies of aws were measured on {TODAY} in eu-west-1" in note for note in plan.notes)


def platform(memory_mb: int, made: Table, provider: str = "aws") -> Platform:
    outline = outline_of(provider, {})
    assert outline is not None
    return Platform(provider=provider, outline=outline, table=made, tariff=None, memory_mb=memory_mb)


def test_measured_sizes_say_how_many_cores_a_function_has() -> None:
    """A half of the stated cores at 885 MB, all at 1769; between them, the share is interpolated."""
    stated = place("aws", {}).outline.cores
    measured = table(speed=2.0, sizes=((885.0, 1e8, stated(885) / 2), (1769.0, 4e8, 1.0)))
    for memory_mb, share in ((512, 0.5), (885, 0.5), (1327, 0.75), (1769, 1.0), (3538, 1.0)):
        assert platform(memory_mb, measured).cores == pytest.approx(share * stated(memory_mb))
        assert platform(memory_mb, table(speed=2.0)).cores == stated(memory_mb)
    assert platform(885, measured).pace == pytest.approx(2 * platform(885, table(speed=2.0)).pace)
    assert platform(3538, measured).pace == 0.5


def test_what_several_threads_lose_slows_no_core() -> None:
    measured = table(speed=2.0, sizes=((7076.0, 1e9, 2.6), (10240.0, 1e9, 0.9)))
    for memory_mb in (512, 885, 1769, 2000, 3538, 7076, 10240):
        assert platform(memory_mb, measured).pace == platform(memory_mb, table(speed=2.0)).pace
    assert platform(7076, measured).cores == pytest.approx(2.6)
    assert platform(10240, measured).cores == 1.0


def test_measured_sizes_are_those_of_one_provider_within_its_limits() -> None:
    measured = table("gcp", sizes=((512.0, 1e8, 0.1), (65536.0, 1e9, 8.0)))
    assert platform(885, measured).cores == platform(885, table()).cores
    assert platform(512, measured, "gcp").cores == pytest.approx(0.1)
    assert platform(32768, measured, "gcp").cores == platform(32768, table("gcp"), "gcp").cores
    emulated = table("gcp", emulator="127.0.0.1:1", sizes=((512.0, 1e8, 0.1),))
    assert platform(512, emulated, "gcp").cores == platform(512, table("gcp"), "gcp").cores


def test_a_plan_takes_a_larger_function_where_a_core_was_measured_as_less() -> None:
    where = place("aws", {})
    for cores, whole in ((1.0, True), (0.95, True), (0.7, False)):
        measured = attrs.evolve(where, table=table(sizes=((1769.0, 4e8, cores),)))
        assert (measured.whole(885), measured.whole(1769), measured.whole(3538)) == (False, whole, True)


def test_of_several_regions_the_newest_counts() -> None:
    kept(table(region="eu-west-1", days=3))
    kept(table(region="us-east-1", days=1))
    kept(table(region="ap-south-1", days=5))
    newest = measured_table("aws")
    assert newest is not None
    assert newest.measured is not None
    assert newest.measured.region == "us-east-1"


def test_a_table_of_an_emulator_is_used_only_by_its_path() -> None:
    file = kept(table(emulator="127.0.0.1:5000"), emulator=True)
    assert file.name == "aws-eu-west-1-emulator.toml"
    assert measured_table("aws") is None
    assert load(str(file)).rows["put"].p50_ms == 3.5
    file.rename(file.with_name("aws-eu-west-1.toml"))
    with pytest.raises(InputError, match=r"was measured on an emulator at 127.0.0.1:5000: expected a table of the services of aws"):
        load("aws")


def test_a_stale_table_is_used_with_a_warning() -> None:
    kept(table(days=90))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measured_table("aws")
    kept(table(days=91))
    with pytest.warns(UserWarning, match=r"latencies of aws were measured 91 days ago .*: fsd measure --provider aws measures them again"):
        assert load("aws").rows["put"].p50_ms == 3.5


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("p50_ms = 3.5", "p50_ms = 4.5", "expected each at least as large as the one before"),
        ("[put]", "[putt]", "putt: unknown key; did you mean put?"),
        ("[measured]", "[meassured]", "meassured: unknown key; did you mean measured?"),
        ("clock_offset_ms = -0.25", 'clock_offset_ms = "late"', "[measured] clock_offset_ms = 'late': expected a finite number, or null"),
        (f'as_of = "{TODAY}"', 'as_of = "today"', "as_of = 'today': expected a day"),
        ("[read]", "[read", "is not TOML"),
        ("clock_offset_ms = -0.25", "sizes = [[512, 1e8]]", "[measured] sizes = [[512, 100000000.0]]: expected a list of lists of three"),
        ("clock_offset_ms = -0.25", "sizes = [[512, 1e8, 0]]", "expected a list of lists of three positive numbers: MiB of a function"),
        ("clock_offset_ms = -0.25", "sizes = [[0.3, 1e8, 1]]", "MiB of a function (at least 1), weights times samples a second, cores"),
    ],
)
def test_a_damaged_table_is_one_clear_line(old: str, new: str, words: str) -> None:
    file = kept(table())
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as raised:
        Latency.parse("aws")
    line = str(raised.value)
    assert words in line
    assert str(file) in line
    assert line.startswith("measured latency ")  # and not a flag that nobody gave
    assert line.endswith(": remove the file, then measure again: fsd measure --provider aws")
    assert "\n" not in line
    assert load("gcp").rows  # everything else works


def test_a_file_without_what_was_measured_is_refused() -> None:
    file = kept(table())
    file.write_text(file.read_text().partition("[measured]")[0])
    with pytest.raises(InputError, match=r"has no table \[measured\]"):
        load("aws")
