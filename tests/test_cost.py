"""Tariffs and bills: the published dollars, each platform's rounding by hand, what is refused, and the command."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.cli import main
from fsd_core.cost import Bill, Usage, bill, default_tariff, load, names
from fsd_core.cost.usage import FIGURES
from fsd_core.errors import InputError
from fsd_core.storage.meter import FIELDS
from fsd_core.worker.cold import Start

DOCUMENT = Path(__file__).parents[1] / "docs" / "billing.md"

# Oakley and Ferhatosmanoglu, FSD-Inference, ICDE 2024 (arXiv 2403.15195), medians of three runs in eu-west-1, by neurons and workers.
# Workers, MB, seconds of all functions, then these figures; then USD of these services.
TIMES = ("invocations", "function_memory_mb", "function_seconds")
QUEUE = (*TIMES, "publish_units", "message_bytes_sent", "receive_requests"), ("lambda", "sns", "sqs")
OBJECT = (*TIMES, "object_puts", "object_gets", "object_lists"), ("lambda", "s3")
PUBLISHED = [
    (QUEUE, (8, 1000, 568.6121, 2204, 104131260, 4318, 0.009330592, 0.01047381, 0.0017272)),
    (QUEUE, (42, 1000, 4695.515, 21000, 767158100, 41145, 0.07704439, 0.07954423, 0.016458)),
    (QUEUE, (20, 1500, 2085.941, 10906, 628973100, 16371, 0.0513379, 0.06206058, 0.0065484)),
    (QUEUE, (42, 2000, 6098.305, 53000, 2840054800, 38134, 0.2001092, 0.2821049, 0.0152536)),
    (QUEUE, (62, 4000, 18514.28, 188340, 11081539000, 77804, 1.215012, 1.091509, 0.0311216)),
    (OBJECT, (8, 1000, 514.6556, 6452, 6450, 1615, 0.008445369, 0.0454641)),
    (OBJECT, (42, 1000, 4581.923, 191257, 191225, 14456, 0.07518077, 1.170593)),
    (OBJECT, (20, 1500, 1643.021, 43145, 43131, 4509, 0.04043793, 0.2706812)),
    (OBJECT, (42, 2000, 5446.766, 190937, 190906, 12632, 0.1787306, 1.159096)),
    (OBJECT, (62, 4000, 14585.99, 410859, 410792, 22782, 0.9572185, 2.47083)),
]
CLOUDS = ("aws-us-east-1", "gcp-us-central1", "azure-eastus2")


def billed(tariff: str, **figures: Any) -> Bill:
    return bill(Usage.parse(figures), load(tariff))


def by_service(made: Bill) -> dict[str, float]:
    return {service: sum(line.usd for line in lines) for service, lines in made.by_service.items()}


@pytest.mark.parametrize(("channel", "row"), PUBLISHED, ids=[f"{row[0]}x{row[1]}-{len(channel[1])}" for channel, row in PUBLISHED])
def test_the_published_runs_cost_the_published_dollars(channel: tuple[Sequence[str], Sequence[str]], row: Sequence[float]) -> None:
    figures, services = channel
    made = billed("aws-icde2024", **dict(zip(figures, row, strict=False)))
    dollars = row[len(figures) :]
    assert by_service(made) == pytest.approx(dict(zip(services, dollars, strict=True)), rel=0.005)
    assert made.total_usd == pytest.approx(sum(dollars), rel=0.005)


# by hand


@pytest.mark.parametrize(
    ("tariff", "times", "invocations", "seconds"),
    [
        ("aws-us-east-1", [1.0001, 0.0004], 2, 1.001 + 0.001),
        ("aws-us-east-1", [0.007], 1, 0.007),  # 0.007 s are 7.000000000000001 ms as floats
        ("aws-us-east-1", [1.0], 3, 1.002),  # two launches ended at once
        ("aws-us-east-1", 2.0, 3, 2.0),
        ("gcp-us-central1", [1.01, 0.0, 0.1], 3, 1.1 + 0.1 + 0.1),
        ("gcp-us-central1", 0.25, 1, 0.3),
        ("azure-eastus2", [1.01, 0.3], 2, 1.1 + 1.0),
        ("azure-eastus2", 0.3, 4, 4.0),  # each of four takes at least a second
        ("azure-eastus2", [], 2, 2.0),
    ],
)
def test_function_time_is_rounded_as_the_platform_does(tariff: str, times: object, invocations: int, seconds: float) -> None:
    usage = Usage.parse({"function_seconds": times, "invocations": invocations, "function_memory_mb": 1024})
    assert load(tariff).function.seconds(usage) == pytest.approx(seconds, rel=1e-12)


def test_initialisation_is_billed_where_the_platform_does() -> None:
    usage = Usage({"invocations": 2}, ((1.0, 0.5), (1.0, 0.0)), 0.0, 1024)
    assert [load(name).function.seconds(usage) for name in (*CLOUDS, "aws-icde2024")] == [2.5, 2.5, 2.0, 2.0]


def test_sizes_and_vcpus() -> None:
    google, azure = load("gcp-us-central1").function, load("azure-eastus2").function
    assert [google.vcpu(size) for size in (128, 129, 1024, 2048, 4096, 4097, 32768, 99999)] == [1, 1, 1, 1, 1, 2, 8, 8]
    assert [azure.memory_mb(size) for size in (1, 512, 513, 4096, 5000)] == [512, 512, 2048, 4096, 5000]
    one = billed("gcp-us-central1", function_seconds=[10.0], function_memory_mb=512, invocations=1)
    assert one.total_usd == pytest.approx(10 * 1 * 2.4e-5 + 10 * 0.5 * 2.5e-6 + 4e-7)  # fsd deploys no part of a vCPU


def test_a_request_counts_at_least_what_the_service_says() -> None:
    few = billed("gcp-us-central1", publish_units=100, receive_requests=300, message_bytes_sent=5000)
    assert few.total_usd == pytest.approx((100_000 + 300_000) * 40 / 2**40)
    many = billed("gcp-us-central1", publish_units=100, receive_units=100, message_bytes_sent=10**9)
    assert many.total_usd == pytest.approx(2 * 10**9 * 40 / 2**40)


def test_units_of_64_kib_count_on_aws_and_messages_on_azure() -> None:
    figures = {"publish_requests": 10, "publish_units": 40, "messages_sent": 90, "receive_requests": 20, "receive_units": 45}
    assert by_service(billed("aws-us-east-1", **figures)) == pytest.approx({"sns": 40 * 5e-7, "sqs": 45 * 4e-7})
    made = billed("azure-eastus2", **figures, messages_received=95)
    assert by_service(made) == pytest.approx({"service-bus-standard": (90 + 95 + 95) * 8e-7})
    units = {"messages_received": 90, "message_units_sent": 120, "message_units_received": 110}  # some are over 64 KiB
    assert by_service(billed("azure-eastus2", **figures, **units)) == pytest.approx({"service-bus-standard": (120 + 110 + 90) * 8e-7})


def test_sends_straight_to_a_queue_are_requests_to_sqs_and_not_to_sns() -> None:
    figures = {"publish_requests": 30, "publish_units": 40, "direct_units": 35, "receive_requests": 20, "message_bytes_sent": 10**9}
    for name, byte in (("aws-us-east-1", 0.0), ("aws-icde2024", 0.09e-9)):
        made = by_service(billed(name, **figures, direct_bytes_sent=9 * 10**8))
        assert made == pytest.approx({"sns": 5 * 5e-7 + 10**8 * byte, "sqs": (35 + 20) * 4e-7})
    direct = billed("gcp-us-central1", **figures, direct_bytes_sent=9 * 10**8)  # there it makes no difference
    assert direct.total_usd == billed("gcp-us-central1", **figures).total_usd


def test_a_price_of_low_confidence_is_marked_and_billed_both_ways() -> None:
    today, paper = (billed(name, message_bytes_sent=10**9) for name in ("aws-us-east-1", "aws-icde2024"))
    assert (today.total_usd, today.otherwise_usd) == (0.0, 0.09)
    assert (paper.total_usd, paper.otherwise_usd) == (0.09, 0.0)
    assert [line.to_json()["confidence"] for line in (*today.lines, *paper.lines)] == ["low", "low"]
    sure = billed("aws-us-east-1", object_gets=3)
    assert sure.otherwise_usd == sure.total_usd


def test_a_number_of_thousands_of_digits_is_one_line(tmp_path) -> None:
    text = (Path(load("local").path)).read_text()
    (tmp_path / "mine.toml").write_text(re.sub(r"step_ms = \S+", "step_ms = 0x" + "f" * 6000, text))
    with pytest.raises(InputError, match="step_ms = a number above 1e\\+18: expected"):
        load(str(tmp_path / "mine.toml"))


def test_a_charge_by_the_month_stands_apart() -> None:
    assert billed("azure-eastus2", object_puts=1).apart == ()
    made = billed("azure-eastus2", publish_units=1)
    assert made.total_usd == pytest.approx(8e-7)
    assert [line.to_json() for line in made.apart] == [
        {"service": "service-bus-standard", "sku": "base", "quantity": 1.0, "usd": 10.0, "confidence": "medium"}
    ]


def test_free_tiers_are_off_unless_asked_for() -> None:
    usage, tariff = Usage.parse({"invocations": 1_000_300}), load("aws-us-east-1")
    assert bill(usage, tariff).total_usd == pytest.approx(1_000_300 * 2e-7)
    assert bill(usage, tariff, free=True).total_usd == pytest.approx(300 * 2e-7)
    assert bill(Usage.parse({"invocations": 7}), tariff, free=True).total_usd == 0


def test_nothing_used_costs_nothing() -> None:
    for name in names():
        assert bill(Usage.parse({}), load(name)).to_json() | {"tariff": ""} == {
            "tariff": "", "lines": [], "total_usd": 0, "otherwise_usd": 0, "apart": []
        }  # fmt: skip


def test_local_is_free() -> None:
    made = billed("local", **dict.fromkeys(FIELDS, 5), function_seconds=3.0, function_memory_mb=2048)
    assert made.lines
    assert made.total_usd == made.otherwise_usd == 0


def test_our_tariffs_say_where_each_price_is_from() -> None:
    assert {"aws-us-east-1", "gcp-us-central1", "azure-eastus2", "aws-icde2024", "local"} <= set(names())
    for name in names():
        tariff = load(name)
        assert default_tariff(tariff.provider) in names()
        assert len({(price.service, price.sku) for price in tariff.prices}) == len(tariff.prices)
        for price in tariff.prices:
            assert re.fullmatch(r"20\d\d(-\d\d-\d\d|\.\.20\d\d)?|undated", price.as_of), price
            assert len(price.source) > 10


# what always holds

COUNTS = st.integers(0, 10**6)
MEMORY = 1536
USAGES = st.builds(
    lambda counts, times: Usage({**counts, "invocations": len(times)}, tuple(times), 0.0, MEMORY),
    st.fixed_dictionaries({}, optional={name: COUNTS for name in FIGURES[:-2] if name != "invocations"}),
    st.lists(st.tuples(st.floats(0, 900), st.floats(0, 10)), max_size=5),
)

tariff_of = functools.cache(load)  # reading one takes longer than a bill by it, and here each example needs one


def added(one: Usage, other: Usage) -> Usage:
    counts = {name: one[name] + other[name] for name in FIGURES[:-2]}
    return Usage(counts, one.functions + other.functions, one.more_seconds + other.more_seconds, MEMORY)


@given(one=USAGES, other=USAGES, name=st.sampled_from(names()))
def test_two_usages_cost_at_least_the_dearer_and_at_most_both(one: Usage, other: Usage, name: str) -> None:
    tariff = tariff_of(name)
    costs = [bill(usage, tariff) for usage in (one, other, added(one, other))]
    assert all(line.usd >= 0 and line.quantity > 0 for made in costs for line in made.lines)
    first, second, both = (made.total_usd for made in costs)
    assert max(first, second) <= both * (1 + 1e-9)
    assert both <= (first + second) * (1 + 1e-9)


PARTS_OF = {"direct_units": ("publish_units", "publish_requests"), "direct_bytes_sent": ("message_bytes_sent",)}  # of which they are a part


@given(usage=USAGES, name=st.sampled_from(names()), figure=st.sampled_from(FIGURES[:-2]), more=st.integers(1, 10**6))
def test_more_of_anything_never_costs_less(usage: Usage, name: str, figure: str, more: int) -> None:
    figures = {figure, *PARTS_OF.get(figure, ())}
    grown = Usage({**usage.counts, **{each: usage[each] + more for each in figures}}, usage.functions, usage.more_seconds, usage.memory_mb)
    tariff = tariff_of(name)
    for free in (False, True):
        before, after = (bill(each, tariff, free=free).total_usd for each in (usage, grown))
        assert 0 <= before <= after * (1 + 1e-9)


@given(usage=USAGES, name=st.sampled_from(names()))
def test_lines_add_up_and_free_tiers_only_lower(usage: Usage, name: str) -> None:
    made = bill(usage, tariff_of(name))
    fields = made.to_json()
    assert json.loads(json.dumps(fields)) == fields
    assert fields["total_usd"] == pytest.approx(sum(line["usd"] for line in fields["lines"]))
    assert bill(usage, tariff_of(name), free=True).total_usd <= made.total_usd


@given(seconds=st.floats(0, 1e5), step=st.sampled_from([1, 100, 250]), least=st.sampled_from([0, 1, 1000]))
def test_a_function_is_billed_its_time_and_at_most_a_step_more(seconds: float, step: float, least: float) -> None:
    got = attrs.evolve(tariff_of("local").function, step_ms=step, min_ms=least, init=True).seconds(Usage({}, ((seconds, 0.0),)))
    assert seconds - 1e-6 <= got
    assert got <= max(seconds + step / 1000, least / 1000) + 1e-6


# what is refused


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ([], "expected an object"),
        ({"publish_unit": 1}, "publish_unit: unknown key; did you mean publish_units?"),
        ({"publish_units": -1}, "publish_units = -1: expected a whole number of at least 0"),
        ({"publish_units": 1.5}, "publish_units = 1.5"),
        ({"publish_units": True}, "publish_units = True"),
        ({"publish_units": "1"}, "publish_units = '1'"),
        ({"publish_units": None}, "publish_units = None"),
        ({"object_gets": float("nan")}, "object_gets = nan"),
        ({"object_gets": float("inf")}, "object_gets = inf"),
        ({"function_seconds": 1.0}, "function_memory_mb: is missing"),
        ({"function_seconds": [1.0]}, "function_memory_mb: is missing"),
        ({"function_seconds": -1, "function_memory_mb": 128}, "function_seconds = -1"),
        (
            {"function_seconds": [1, -2], "function_memory_mb": 128},
            "function_seconds = [1, -2]: expected a number of at least 0, or a list",
        ),
        ({"function_seconds": 1, "function_memory_mb": 0}, "function_memory_mb = 0: expected a number above 0"),
        ({"function_seconds": 1, "function_memory_mb": [128]}, "function_memory_mb = [128]"),
    ],
)
def test_a_wrong_usage_is_one_line(figures: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Usage.parse(figures, "u.json")
    assert str(caught.value).startswith("u.json: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match=r"run abc: .* expected a record of this version"):
        Usage.of_run({"run": "abc", "meter": {}, "seconds": {"total": 1.0}, "ranks": [], "memory": {}})


def ours(name: str = "aws-us-east-1") -> str:
    return Path(load(name).path).read_text()


WRONG = [
    ('usd = 2e-7', 'usd = -2e-7', "(lambda requests) usd = -2e-07: expected a number of at least 0"),
    ('usd = 2e-7', '', "(lambda requests) usd: is missing"),
    ('usd = 2e-7', 'usd = "2e-7"', "usd = '2e-7'"),
    ('usd = 2e-7', 'usd = nan', "usd = nan"),
    ('usd = 2e-7', 'usd = true', "usd = True"),
    ('usd = 2e-7', 'usdd = 2e-7', "usdd: unknown key; did you mean usd?"),
    ('usd = 2e-7', 'usd = 2e-7\notherwise = 1', "otherwise = 1: expected only with low confidence"),
    ('counts = ["invocations"]', 'counts = ["invocation"]', "counts = ['invocation']: expected a list of some of publish_units"),
    ('counts = ["invocations"]', '', "counts: expected either counts"),
    ('counts = ["object_gets"]', 'counts = ["object_puts"]', "no price counts object_gets"),
    ('step_ms = 1', 'step_ms = 0', "[function] step_ms = 0: expected a number of at least 1e-09"),
    ('min_ms = 1', '', "[function] min_ms: is missing"),
    ('init = true', 'init = 1', "[function] init = 1: expected true or false"),
    ('init = true', 'init = true\nsizes_mb = [2, 1]', "sizes_mb = [2, 1]: expected a list of numbers above 0, ascending"),
    ('init = true', 'init = true\nvcpus = [[2, 1], [1, 1]]', "vcpus = [[2, 1], [1, 1]]: expected a list of pairs"),
    ('per = 1024', 'per = 0', "(lambda compute-x86) per = 0: expected a number of at least 1e-09"),
    ('free = 400_000', 'free = -1', "free = -1"),
    ('confidence = "low"', 'confidence = "perhaps"', "confidence = 'perhaps': expected one of high, medium, low"),
    ('region = "us-east-1"', '', "region: is missing"),
    ('region = "us-east-1"', 'region = 3', "region = 3"),
    ('provider = "aws"', 'provider = "aws"\nprize = 1', "prize: unknown key; did you mean price?"),
    ('[function]', '[function', "is not TOML"),
    ('[function]', '[[function]]', "function = [{"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), WRONG, ids=[f"{new or 'without ' + old}" for old, new, _ in WRONG])
def test_a_wrong_tariff_is_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    assert old in ours()
    file.write_text(ours().replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load(str(file))
    assert str(caught.value).startswith(f"tariff {file}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vcpus_are_needed_where_they_are_billed(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(re.sub(r"vcpus = .*\n", "", ours("gcp-us-central1")))
    with pytest.raises(InputError, match=r"\[function\] vcpus: is missing"):
        load(str(file))


@pytest.mark.parametrize("name", ["aws-us-est-1", "aws", "nonsense", "", "../tariffs"])
def test_an_unknown_tariff_names_the_known(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name)
    assert "/" in name or "aws-icde2024, aws-us-east-1, azure-eastus2, gcp-us-central1, local" in str(caught.value)
    assert name != "aws-us-est-1" or "did you mean aws-us-east-1?" in str(caught.value)


def test_a_file_overrides_ours(tmp_path: Path) -> None:
    file = tmp_path / "aws-us-east-1.toml"
    file.write_text(ours().replace("usd = 2e-7", "usd = 3e-7"))
    made = billed(str(file), invocations=10)
    assert (made.total_usd, made.tariff.name) == (pytest.approx(3e-6), str(file))


# the start of a process


def test_only_the_first_launch_of_a_process_was_cold() -> None:
    code = (
        "import time; time.sleep(0.2)\n"
        "from fsd_core.worker.cold import Start\nstart = Start()\nfirst, second = start.take(), start.take()\n"
        "assert 0.15 < first < 60 and second == 0, (first, second)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)
    assert Start().take() > 0


def test_a_process_that_was_forked_takes_its_own_start_and_not_its_parents() -> None:
    code = (
        "import os, time; time.sleep(1)\n"
        "from fsd_core.worker.cold import Start\nstart = Start()\n"
        "if os.fork() == 0:\n"
        "    first, second = start.take(), start.take()\n"
        "    os._exit(first >= 0.5 or second != 0)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
        "assert start.take() > 0.9"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


# the command


@pytest.fixture
def fsd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process, in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FSD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_tariff_list_and_show(fsd: Any) -> None:
    code, out, err = fsd("tariff", "list", "--json")
    assert code == 0, err
    assert [tariff["name"] for tariff in json.loads(out)["tariffs"]] == names()
    assert all(name in fsd("tariff", "list")[1] for name in names())
    for name in names():
        code, out, _ = fsd("tariff", "show", name, "--json")
        shown = json.loads(out)
        assert (code, shown["name"], len(shown["prices"])) == (0, name, len(load(name).prices))
        assert all({"sku", "usd", "unit", "source", "as_of", "confidence"} <= price.keys() for price in shown["prices"])
        code, out, _ = fsd("tariff", "show", name)
        assert code == 0
        assert all(price.sku in out for price in load(name).prices)


def test_bill_is_one_object(fsd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("usage.json").write_text('{"publish_units": 2204, "message_bytes_sent": 104131260, "receive_requests": 4318}')
    code, out, err = fsd("bill", "--tariff", "aws-icde2024", "--usage", "usage.json", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["total_usd"] == pytest.approx(0.01047381 + 0.0017272, rel=0.005)
    assert [line.keys() for line in answer["lines"]] == [{"service", "sku", "quantity", "usd", "confidence"}] * 3
    monkeypatch.setattr("sys.stdin", io.StringIO('{"invocations": 1000300}'))
    code, out, _ = fsd("bill", "--tariff", "aws-us-east-1", "--usage", "-", "--free-tier", "--json")
    assert (code, json.loads(out)["total_usd"]) == (0, pytest.approx(300 * 2e-7))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["bill", "--usage", "usage.json"], "--tariff is missing: expected one of aws-icde2024"),
        (["bill", "--tariff", "aws-us-east-1"], "--usage"),
        (["bill", "--tariff", "aws-us-est-1", "--usage", "usage.json"], "did you mean aws-us-east-1?"),
        (["bill", "--tariff", "no/such.toml", "--usage", "usage.json"], "no/such.toml: no such file"),
        (["bill", "--tariff", "./", "--usage", "usage.json"], "cannot be read"),
        (["bill", "--tariff", "local", "--usage", "nosuch.json"], "nosuch.json: no such file"),
        (["bill", "--tariff", "local", "--usage", "broken.json"], "broken.json: is not JSON"),
        (["bill", "--tariff", "local", "--usage", "wrong.json"], "wrong.json: object_puts = -3: expected a whole number of at least 0"),
        (["tariff", "show", "azure"], "did you mean azure-eastus2?"),
        (["run", "radixnet:1024:6", "random:4", "--tariff", "aws-us-west-1"], "did you mean aws-us-east-1?"),
        (["run", "radixnet:1024:6", "random:4", "--provider", "aws", "--tariff", "gcp-us-central1"], "has prices of provider gcp"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line_and_2(fsd: Any, words: list[str], part: str) -> None:
    Path("usage.json").write_text("{}")
    Path("broken.json").write_text("{")
    Path("wrong.json").write_text('{"object_puts": -3}')
    code, out, err = fsd(*words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert part in err
    code, out, _ = fsd(*words, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "INVALID")


RUN = ["run", "radixnet:1024:6", "random:20", "--workers", 3, "--partition", "block", "--channel", "queue"]


def test_a_run_ends_with_its_bill(fsd: Any) -> None:
    code, out, err = fsd(*RUN, "--json")
    assert code == 0, err
    made = json.loads(out)["bill"]
    assert (made["tariff"], made["total_usd"]) == ("local", 0)
    code, out, err = fsd(*RUN, "--tariff", "aws-us-east-1", "--json")
    assert code == 0, err
    answer = json.loads(out)
    made, meter = answer["bill"], answer["meter"]
    quantities = {(line["service"], line["sku"]): line["quantity"] for line in made["lines"]}
    assert quantities["sns", "publish-standard"] == meter["publish_units"]
    assert quantities["sqs", "request-standard"] == meter["receive_units"] + meter["ack_requests"]
    assert quantities["s3", "put-copy-post-list"] == meter["object_puts"] + meter["object_lists"]
    assert quantities["lambda", "requests"] == meter["invocations"]
    code, out, err = fsd(*RUN, "--tariff", "aws-us-east-1", "--objective", "latency", "--latency", "aws,scale=0.02", "--json")
    assert code == 0, err
    soon = json.loads(out)
    lines = {(line["service"], line["sku"]): line["quantity"] for line in soon["bill"]["lines"]}
    assert soon["meter"]["direct_units"] == soon["meter"]["publish_units"] > meter["publish_units"]
    assert ("sns", "publish-standard") not in lines
    assert lines["sqs", "request-standard"] == sum(soon["meter"][name] for name in ("direct_units", "receive_units", "ack_requests"))
    assert soon["meter"]["payload_bytes_sent"] == meter["payload_bytes_sent"]
    record = json.loads(Path("home", "runs", f"{answer['run']}.json").read_text())
    times = [rank["seconds"] for rank in record["ranks"]]
    assert all(each["function"] >= each["load"] + each["compute"] > 0 and each["init"] > 0 for each in times)
    least = sum(each["function"] + each["init"] for each in times) * answer["memory"]["limit_bytes"] / 2**30
    assert quantities["lambda", "compute-x86"] == pytest.approx(least, abs=0.001 * 3 * 2)
    assert bill(Usage.of_run(record), load("aws-us-east-1")).to_json() == made


def test_a_runs_table_has_the_bill_by_service(fsd: Any) -> None:
    code, out, err = fsd(*RUN, "--tariff", "azure-eastus2")
    assert code == 0, err
    table = out.split("Bill by azure-eastus2")[1]
    for words in ("functions-flex", "service-bus-standard", "blob-hot-lrs", "low confidence", "total", "not in the total"):
        assert words in table


def test_the_tariff_is_a_key_of_the_file(fsd: Any) -> None:
    Path("fsd.toml").write_text('tariff = "gcp-us-central1"\n')
    Path("usage.json").write_text('{"invocations": 5}')
    code, out, _ = fsd("bill", "--usage", "usage.json", "--json")
    assert (code, json.loads(out)["tariff"]) == (0, "gcp-us-central1")


def test_the_worked_examples_are_what_the_command_prints(fsd: Any) -> None:
    text = DOCUMENT.read_text()
    usage = re.search(r"^```json\n(.*?)^```", text, re.S | re.M)
    assert usage is not None
    Path("usage.json").write_text(usage[1])
    examples = re.findall(r"^```console\n\$ fsd (.*?)\n(.*?)^```", text, re.S | re.M)
    assert [words.split()[2] for words, _ in examples] == list(CLOUDS)
    for words, printed in examples:
        assert fsd(*words.split())[1] == printed


def test_the_sums_of_the_worked_examples_are_right() -> None:
    sums = re.findall(r"Together ([\d. +\n]+?) = ([\d.]+\d)", DOCUMENT.read_text())
    assert len(sums) == 3
    for terms, total in sums:
        assert sum(map(float, terms.split("+"))) == pytest.approx(float(total), abs=5e-9)
