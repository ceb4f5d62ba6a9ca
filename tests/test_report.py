"""The page of a run and of a comparison, as a browser shows it; and records that cannot be read."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from importlib import resources
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

import browser as chromium
import fsd_core
from fsd_core import cost, make_plan, write_plan
from fsd_core.cli import main
from fsd_core.common.sealed import seal
from fsd_core.cost import Usage
from fsd_core.errors import InputError
from fsd_core.report import comparison_page, find_record, read_record, run_page, stragglers
from fsd_core.report.compare import Case, Cell, Comparison, Where
from fsd_core.report.figures import FIGURES, RANK_PARTS, Measured, rank_parts
from fsd_core.versions import versions

CLOUDS = ("local", "aws", "gcp", "azure")
IDS = r'\bid="([^"]+)"'


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def results(home):
    """Small runs for real: (channel, workers) -> record."""
    made = {}
    for channel in ("queue", "object"):
        for workers in (2, 5):
            result = fsd_core.run("radixnet:1024:12", "random:50", channel=channel, workers=workers, partition="block", home=home)
            made[channel, workers] = read_record(home / "runs" / f"{result.run}.json")
    return made


@pytest.fixture
def record(results):
    return json.loads(json.dumps(results["queue", 5]))


def measured(record, provider="local"):
    """A run on this machine, billed as if by a provider."""
    return Measured(record | {"provider": provider}, cost.bill(Usage.of_run(record), cost.load(cost.default_tariff(provider))))


@pytest.fixture(scope="module")
def pages(results, tmp_path_factory):
    """A page of each kind. The clouds' figures are this machine's: what is looked at is the page."""
    folder = tmp_path_factory.mktemp("pages")
    cells = [Cell(Case(name, *case), [measured(results[case], name)] * 2) for case in results for name in CLOUDS[:3]]
    cells[1].error = "UNAVAILABLE: it broke off <b>in the midst</b>"
    cells[1].runs = []
    cells += [Cell(Case("azure", *case)) for case in results]
    wheres = {name: Where(None if name == "local" else "some-emulator", cost.default_tariff(name) or "") for name in CLOUDS}
    wheres["azure"].error = "no subscription is set: " + "a-very-long-word" * 12
    about = {"command": "fsd compare", "model": "radixnet:1024:12", "input": "random:50", "samples": 50, "layers": 12, "neurons": 1024}
    found = Comparison(about | {"repeat": 2, "model digest": "0123456789abcdef" * 4} | versions("aws"), wheres, cells)
    written = {"comparison": comparison_page(found)}
    written["run"] = run_page(measured(results["queue", 5] | {"stand_in": "sb://localhost:5672"}, "azure"))
    for name, text in written.items():
        (folder / f"{name}.html").write_text(text)
    return folder


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    if chromium.MISSING:
        pytest.skip(chromium.MISSING)
    with chromium.browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


# what a browser shows

CHARTS = """
return [...document.querySelectorAll('svg.chart')].map(svg => {
  const frame = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return {
    name: svg.querySelector('title').textContent,
    marks: [...svg.querySelectorAll('g[id*=mark-]')].map(mark => mark.getBoundingClientRect().width),
    labels: boxes.map(([text]) => text.trim()),
    outside: boxes.filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
      .map(([text]) => text),
    size: Math.min(...boxes.map(([, box]) => box.height)),
    colours: new Set([...svg.querySelectorAll('g[id*=mark-] path')].map(path => getComputedStyle(path).fill)).size,
  };
});"""
WIDE = """
for (const details of document.querySelectorAll('details')) details.open = true;
const right = element => (element.parentElement.closest('section') || document.documentElement).getBoundingClientRect().right;
return [...document.querySelectorAll('body *')].filter(element => element.getBoundingClientRect().right > right(element) + 0.5)
  .map(element => `${element.tagName} ${element.textContent.slice(0, 40)}`);"""


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The page of a plan for two clouds."""
    folder, few = tmp_path_factory.mktemp("planned"), {"gcp": {"concurrency": 3}}
    plan = make_plan("radixnet:1024:4", "random:30:0.2", providers=["aws", "gcp"], per_day=100, settings=few, home=folder)
    write_plan(plan, folder / "plan.html")
    return folder / "plan.html"


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light")])
def test_the_page_of_a_plan_in_a_browser(opened, planned, width, theme):
    opened.log("browser")
    opened.requested()
    opened.open(planned, width, theme)
    found = opened.evaluate(CHARTS)
    assert [chart["name"] for chart in found] == ["Cold starts: time and money", "Warm functions: time and money", "Where the time goes"]
    for chart in found:
        assert len(chart["marks"]) >= 5, chart["name"]
        assert chart["outside"] == []
        assert chart["size"] >= 11
    assert any("one function" in chart["labels"] for chart in found[:2])
    assert opened.evaluate(WIDE) == []
    assert opened.evaluate("return document.documentElement.scrollWidth") <= width
    assert opened.log("browser") == []
    assert {url for url in opened.requested() if url.startswith(("http", "file"))} == {planned.as_uri()}
    assert "quota 3 functions at once" in opened.evaluate("return document.body.textContent")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("name", "charts"), [("comparison", 4), ("run", 2)])
def test_a_page_in_a_browser(opened, pages, name, charts, width, theme):
    page = pages / f"{name}.html"
    opened.log("browser")
    opened.requested()
    opened.open(page, width, theme)
    assert opened.evaluate("return innerWidth") == width
    found = opened.evaluate(CHARTS)
    assert len(found) == charts
    for chart in found:
        assert len(chart["marks"]) >= 5, chart["name"]
        assert min(chart["marks"]) > 0
        assert chart["colours"] >= 3
        assert len([label for label in chart["labels"] if label]) > 10
        assert chart["outside"] == []
        assert chart["size"] >= 11
    assert opened.evaluate(WIDE) == []
    assert opened.evaluate("return document.documentElement.scrollWidth") <= width
    assert opened.log("browser") == []
    assert {url for url in opened.requested() if not url.startswith("data:")} == {page.as_uri()}
    back = [int(part) for part in re.findall(r"\d+", opened.evaluate("return getComputedStyle(document.body).backgroundColor"))[:3]]
    assert (sum(back) > 600) == (theme == "light")
    if folder := os.environ.get("FSD_SCREENSHOTS"):
        size = opened.devtools("Page.getLayoutMetrics")["cssContentSize"] | {"scale": 1}
        shot = opened.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip=size)["data"]
        (Path(folder) / f"{name}-{width}-{theme}.png").write_bytes(base64.b64decode(shot))


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of #rrggbb."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# What a colour looks like to who lacks a kind of cone, of linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009), severity 1.
BLIND = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))  # of linear sRGB, D65


def lab(colour: str, seen: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """CIE L*a*b* of #rrggbb as it is seen."""
    rgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    ratio = np.array(XYZ) @ np.clip(np.array(seen) @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", BLIND)
def test_colours_can_be_told_apart_by_everybody(seen):
    style = (resources.files("fsd_core.report") / "page.css").read_text()
    themes = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(themes) == 2
    for theme in themes:
        parts = re.findall(r"--part-\d: (#\w{6})", theme)
        assert len(parts) == 7
        for one, other in combinations(parts, 2):
            assert np.linalg.norm(lab(one, BLIND[seen]) - lab(other, BLIND[seen])) > 15, (one, other)


def test_colours_can_be_told_from_their_ground():
    style = (resources.files("fsd_core.report") / "page.css").read_text()
    themes = re.findall(r":root \{(.*?)\}", style, re.S)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", theme))
        assert {"ink", "soft", "link", "warn", "part-0"} <= colours.keys()
        for name, colour in colours.items():
            least = {"ink": 7, "soft": 4.5, "link": 4.5, "warn": 4.5}.get(name, 3 if name.startswith("part") else 1)
            for ground in ("card", "back"):
                light, dark = sorted((luminance(colour), luminance(colours[ground])), reverse=True)
                if ground == "card" or not name.startswith("part"):
                    assert (light + 0.05) / (dark + 0.05) >= least, (name, ground)


# what a page says


def test_a_page_is_alone_and_what_comes_from_elsewhere_is_text(pages):
    for name in ("comparison", "run"):
        text = (pages / f"{name}.html").read_text()
        assert not re.search(r"<script|<img|<iframe|@import|url\((?!#)|src=", text)
        assert set(re.findall(r'https?://[^"\s<]+', text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        ids = re.findall(IDS, text)
        assert len(ids) == len(set(ids))
        targets = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
        assert targets
        assert targets <= set(ids)
    text = (pages / "comparison.html").read_text()
    assert "&lt;b&gt;in the midst" in text
    assert "<b>in the midst" not in text
    for words in ("Compare counts and bytes, not times", "Money by service", "no subscription is set", "numpy", "model digest"):
        assert words in text


def test_the_parts_of_each_figure_add_up(record):
    run = measured(record, "aws")
    whole = {
        "time": record["seconds"]["total"],
        "requests": sum(record["meter"][n] for n in ("publish_requests", "receive_requests", "ack_requests", "object_puts", "object_gets",
            "object_lists", "invocations")),
        "bytes": sum(record["meter"][n] for n in ("message_bytes_sent", "object_bytes_written", "object_bytes_read")),
        "money": 1000 * run.bill.total_usd,
    }  # fmt: skip
    for figure in FIGURES:
        assert figure.total(run) == pytest.approx(whole[figure.name], rel=0.02 if figure.name == "time" else 1e-9)
        assert len(figure.of(run)) == len(figure.parts)


def test_a_rank_that_others_waited_for_is_a_straggler(record):
    for rank in record["ranks"]:
        rank["seconds"] |= {"load": 0.01, "compute": 0.02, "send": 0.01, "exchange": 0.3, "other": 0.06, "launch": 0.1}
    record["seconds"]["total"] = 1.0
    assert not any(each.late for each in stragglers(record))
    record["ranks"][3]["seconds"]["compute"] = 0.2
    assert [(each.phase, each.rank) for each in stragglers(record) if each.late] == [("compute", 3)]
    assert dict(zip(RANK_PARTS, rank_parts(record["ranks"][0]), strict=True))["wait"] == 0.3


# the command


@pytest.fixture
def fsd(tmp_path, monkeypatch, home, capfd):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FSD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FSD_HOME", str(home))

    def call(*words):
        capfd.readouterr()
        code = main([str(word) for word in words])
        return code, *capfd.readouterr()

    return call


def test_report_of_a_run(fsd, record, tmp_path):
    code, out, err = fsd("report", record["run"])
    assert code == 0, err
    assert "Slowest ranks" in out
    text = (tmp_path / f"fsd-{record['run']}.html").read_text()
    assert "rank 4" in text
    code, out, _ = fsd("report", record["run"], "--json", "--tariff", "aws-us-east-1")  # a page of ours is replaced
    answer = json.loads(out)
    assert (code, answer["run"], answer["bill"]["tariff"]) == (0, record["run"], "aws-us-east-1")
    assert {each["phase"] for each in answer["slowest"]} == {"launch", "load", "compute", "send"}


def test_a_trace_of_a_run(fsd, record, tmp_path):
    for _ in range(2):  # a trace of ours is replaced
        code, out, err = fsd("report", record["run"], "--trace", "t.json", "--json")
        assert (code, json.loads(out)["trace"]) == (0, "t.json"), err
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["tid"] for event in spans} == set(range(record["workers"]))
    for rank in record["ranks"]:
        own = [event for event in spans if event["tid"] == rank["rank"]]
        assert own[0]["name"] == "launch"
        assert all(one["ts"] + one["dur"] == pytest.approx(next_one["ts"]) for one, next_one in pairwise(own))
        whole = 1e6 * (rank["seconds"]["launch"] + rank["seconds"]["function"])
        assert own[-1]["ts"] + own[-1]["dur"] == pytest.approx(whole, abs=2e6 * rank["timeline"]["cell_s"])
    (tmp_path / "mine.json").write_text("{}")
    code, _, err = fsd("report", record["run"], "--trace", "mine.json")
    assert code == 2
    assert "--trace mine.json: exists and fsd did not make it" in err
    code, _, err = fsd("report", record["run"], "--out", "new", "--trace", "./new")
    assert (code, "--out names the same file" in err, (tmp_path / "new").exists()) == (2, True, False)


def broken(change):
    def make(record):
        change(record)
        return seal(record).decode()

    return make


def edited(record):
    return seal(record).decode().replace('"workers": 5', '"workers": 4')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lambda record: "{", "expected JSON"),
        (lambda record: "[1]", "not a record of a run"),
        (lambda record: '{"run": "x"}', "another version of fsd: its version is None"),
        (broken(lambda record: record.update(version=1)), "another version of fsd: its version is 1"),
        (edited, "the record is damaged: it begins with"),
        (lambda record: json.dumps(record), "the record is damaged: it begins with"),
        (broken(lambda record: record.pop("began")), "began: is missing: expected"),
        (broken(lambda record: record.pop("seed")), "seed: is missing: expected"),
        (broken(lambda record: record.pop("faults")), "faults: is missing: expected"),
        (broken(lambda record: record["versions"].update(numpy=2)), "versions = {"),
        (broken(lambda record: record.update(run="../../0123456789")), "run = '../../0123456789': expected the id of a run"),
        (broken(lambda record: record.update(partition="a\nb")), "partition = 'a\\nb': expected a text of one line"),
        (broken(lambda record: record["note"].update(model="\ud800")), "note = {"),
        (broken(lambda record: record.update(workers=0, ranks=[])), "workers = 0: expected a whole number of at least 1"),
        (broken(lambda record: record["meter"].update(object_puts=10**400)), "meter.object_puts = a number above 1e+18: expected"),
        (broken(lambda record: record["ranks"][0]["seconds"].update(function=1e308)), "ranks[0].seconds.function"),
        (broken(lambda record: record.update(stand_in=5)), "stand_in = 5: expected a text of one line, or null"),
        (broken(lambda record: record.update(batches=7)), "batches = 7: expected a list"),
        (broken(lambda record: record["ranks"][2].pop("timeline")), "ranks[2].timeline: is missing: expected a table"),
        (
            broken(lambda record: record["ranks"][2]["timeline"].update(phases="lxo")),
            "ranks[2].timeline.phases = 'lxo': expected",
        ),
        (broken(lambda record: record["ranks"][2]["timeline"].update(phases="l" * 513)), "ranks[2].timeline.phases = 'lll"),
        (broken(lambda record: record["seconds"].pop("load")), "seconds.load: is missing: expected"),
        (broken(lambda record: record["meter"].update(object_puts=-1)), "meter.object_puts = -1: expected"),
        (broken(lambda record: record["ranks"].pop()), "4 ranks and 0 missing_ranks: expected each of the 5 workers once"),
        (broken(lambda record: record["ranks"][1]["seconds"].pop("init")), "ranks[1].seconds.init: is missing: expected a number"),
        (broken(lambda record: record["ranks"][1].update(rank=0)), "ranks[1].rank = 0: expected 1"),
        (broken(lambda record: record.update(memory={"peak_bytes_max": 1, "limit_bytes": "2"})), "memory.limit_bytes = '2': expected"),
    ],
)
def test_a_record_of_another_version_is_refused(fsd, record, tmp_path, text, words):
    file = tmp_path / "record.json"
    file.write_text(text(record))
    code, out, err = fsd("report", file)
    assert code == 2
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.glob("*.html")) == []


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("0123456789abcdef", "no record of this run: expected the file"),
        ("nonsense", "16 hexadecimal digits"),
        ("./none.json", "no such file"),
    ],
)
def test_a_record_that_is_gone_is_one_line(fsd, run, words):
    code, out, err = fsd("report", run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_file_of_others_is_not_replaced(fsd, record, tmp_path):
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    code, _, err = fsd("report", record["run"], "--out", "mine.html")
    assert code == 2
    assert "did not make it" in err
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    code, _, err = fsd("report", record["run"], "--out", "no/such/folder.html")
    assert code == 2
    assert "cannot be written" in err


def test_without_matplotlib_it_says_how_to_get_it(fsd, record, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_svg", None)
    code, _, err = fsd("report", record["run"])
    assert code == 2
    assert "pip install 'fsd-inference[report]'" in err


def test_every_record_can_be_read_again(home):
    said = {"why": "a\nb \u2028 \x1b[31m \udc80", "näm\u00a0e": "ok"}
    result = fsd_core.run("radixnet:1024:6", "random:5", workers=1, partition="block", home=home, note=said)
    note = read_record(find_record(result.run, home))["note"]
    assert note == {"model": "radixnet:1024:6", "input": "random:5", "why": "a?b ? ?[31m ?", "näm\u00a0e": "ok"}
    assert [file for file in (home / "runs").iterdir() if file.suffix not in (".json", ".log")] == [home / "runs" / "audit"]


def test_a_record_that_cannot_be_kept_costs_no_result(tmp_path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.warns(UserWarning, match="the run's record cannot be kept in .*runs: File exists"):
        result = fsd_core.run("radixnet:1024:6", "random:5", workers=1, partition="block", home=tmp_path)
    assert result.output.shape == (5, 1024)


def test_records_are_found_by_id_or_path(home, record):
    file = find_record(record["run"], home)
    assert read_record(file)["run"] == record["run"]
    with pytest.raises(InputError, match="no record of this run"):
        find_record("f" * 16, home)


def test_a_run_of_one_worker_has_a_page(home):
    result = fsd_core.run("radixnet:1024:6", "random:5", workers=1, partition="block", home=home)
    run = measured(read_record(find_record(result.run, home)))
    assert ", 1 worker on local" in run_page(run)
