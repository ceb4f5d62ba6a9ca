"""`fsd measure`: measures this machine from its functions, says beforehand what it asks for, and leaves nothing behind."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import browser as chromium
import fsd_core
from fsd_core import InputError, Progress, RunFailed
from fsd_core.cli import main
from fsd_core.common.interrupt import notes
from fsd_core.cost import load as load_tariff
from fsd_core.driver import Code, Delivery, Message, Resources
from fsd_core.latency import VERBS, load
from fsd_core.latency.named import measured_file
from fsd_core.measuring import asking, making
from fsd_core.measuring.asking import FULL, QUICK, Ask, hour_usd
from fsd_core.measuring.session import Session
from fsd_core.measuring.shown import facts
from fsd_core.measuring.sizes import sizes_of
from fsd_core.plan.places import HERE, outline_of, place
from fsd_core.protocol.measuring import PROBE, Task, filler, note, noted
from fsd_core.providers.provisioning import AppProvisioner
from fsd_core.providers.registry import find
from fsd_core.storage import slots
from fsd_core.storage.keys import RunKeys, is_run, new_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker import handle, measuring
from fsd_local import PROVIDER
from fsd_local.provision import LocalProvisioner

SMALL = Ask(colds=2, warms=1, hold_s=0.1, limit_s=10, clocks=3, messages=4, bursts=1, objects=3, connections=2, streams=2, kernel_s=0.02)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = tmp_path_factory.mktemp("home")
        patch.setenv("FSD_HOME", str(made))
        patch.setattr(making, "QUICK", SMALL)
        patch.setattr(asking, "KERNEL_S", 0.02)
        yield made


@pytest.fixture(scope="module")
def steps() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def found(home: Path, steps: list[Progress]) -> fsd_core.Measurement:
    return fsd_core.measure("local", settings={"concurrency": 16}, quick=True, progress=steps.append)


def left_in(home: Path) -> set[str]:
    """The keys of runs in the store of the app."""
    objects = PROVIDER.objects(PROVIDER.provisioner({"root": str(home / "local")}).find("fsd") or Resources("fsd", 0, 0))
    return {key for key in objects.list("").keys if is_run(key)}


def test_what_is_measured(found: fsd_core.Measurement) -> None:
    samples = {verb: len(times) for verb, times in found.samples.items()}
    assert samples == samples | {"publish": 4, "publish_batch": 2, "deliver": 4, "put": 3, "get": 3, "list": 3}
    assert samples["start_cold"] == SMALL.colds + SMALL.warms + 1  # a process for each function: none is warm
    assert sum(found.received) == 20
    assert {row["verb"] for row in found.rows} >= {"publish", "deliver", "ack", "receive", "put", "get", "list", "invoke", "read", "write"}
    assert all(0 < time_ms < 10_000 for verb in ("publish", "deliver", "put", "get") for time_ms in found.samples[verb])
    for verb in ("publish", "deliver"):
        assert found.samples[verb]
    measured = found.table.measured
    assert measured is not None
    assert measured.clock_offset_ms is not None  # one machine has one clock
    assert measured.clock_error_ms is not None
    assert abs(measured.clock_offset_ms) <= measured.clock_error_ms + 0.01
    assert (measured.memory_mb, measured.emulator, found.stand_in) == (2048, "", None)
    assert measured.weights_per_s is not None
    assert measured.weights_per_s > 1e6
    assert measured.speed is not None
    assert 0.1 < measured.speed < 10


def test_the_file_and_what_uses_it(found: fsd_core.Measurement, home: Path) -> None:
    assert found.file == home / "measured" / "local-here.toml"
    table = load("local")
    assert attrs.evolve(table, name=found.table.name) == found.table
    plan = fsd_core.make_plan("radixnet:1024:2", "random:6", providers=["local"])
    assert any("latencies of local were measured" in note for note in plan.notes)
    run = fsd_core.run("radixnet:1024:2", "random:6", workers=2, partition="block", latency="local")
    assert run.latency == {"table": "local", "measured": found.table.as_of, "seed": 0}


def test_a_run_says_that_its_choice_rests_on_it(found: fsd_core.Measurement) -> None:
    texts: list[str] = []
    fsd_core.run("radixnet:1024:2", "random:6", progress=lambda step: texts.append(step.text))
    assert any(f"The latencies were measured on {found.table.as_of}." in text for text in texts)


def test_a_measured_start_does_not_replace_that_of_a_run(found: fsd_core.Measurement) -> None:
    """A function is measured in a host that runs; a run on this machine starts its own."""
    table = place("local", {}).table
    assert table is not None
    assert table.rows["start_cold"] == HERE.rows["start_cold"]
    assert table.rows["put"] == found.table.rows["put"]


@pytest.mark.parametrize("text", ["", "mine\n"])
def test_a_file_that_could_not_be_replaced_is_found_before_anything_is_paid(
    found: fsd_core.Measurement, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = found.file.read_text()
    found.file.write_text(text)
    monkeypatch.setattr(making, "Session", None)
    try:
        with pytest.raises(InputError, match=r"local-here\.toml: exists and fsd did not make it: expected that fsd measure wrote it"):
            fsd_core.measure("local", settings={"concurrency": 16}, quick=True)
        with pytest.raises(InputError, match=r"^measured latency .*: remove the file, then measure again: fsd measure --provider local"):
            load("local")
    finally:
        found.file.write_text(kept)


def test_figures_that_cannot_be_kept_are_told_all_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(making, "write", full)
    with pytest.warns(UserWarning, match="the table of latencies cannot be written: .*No space left on device: make room for it in"):
        found = fsd_core.measure("local", settings={"concurrency": 16}, quick=True)
    assert found.rows
    assert found.file is None
    assert found.to_json()["file"] is None
    assert ("table", "not written") in facts(found)


def test_the_answer(found: fsd_core.Measurement) -> None:
    answer = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert answer["file"] == str(found.file)
    assert {"verb", "n", "p50_ms", "p90_ms", "p99_ms", "mb_per_s"} == {key for row in answer["rows"] for key in row}
    assert [row["verb"] for row in answer["rows"]] == [
        each for each in (*VERBS, "write", "read") if each in {r["verb"] for r in answer["rows"]}
    ]
    assert answer["rows"][-1]["p50_ms"] is None


def test_it_leaves_nothing_behind(found: fsd_core.Measurement, home: Path) -> None:
    assert left_in(home) == set()
    resources = PROVIDER.provisioner({"root": str(home / "local")}).find("fsd")
    assert resources is not None
    store = Store(PROVIDER.objects(resources), Retry(time.time() + 5, Meter()))
    assert slots.holders(store) == set()
    assert any(key.endswith(".free") for key in store.keys("slots/"))
    for slot in range(resources.slots):
        assert PROVIDER.messages(resources, slot).receive(0, 10, 0) == []
        assert PROVIDER.messages(resources, slot).receive(1, 10, 0) == []


def test_what_it_says_beforehand(found: fsd_core.Measurement, steps: list[Progress]) -> None:
    first = steps[0]
    assert first.phase == "ask"
    assert first.text.startswith("local: will request at most about ")
    done = [(step.done, step.total) for step in steps if step.phase == "measure"]
    assert done == sorted(done)
    assert done[-1] == (5, 5)


def test_the_estimate_covers_what_was_requested(home: Path) -> None:
    resources = PROVIDER.provisioner({"root": str(home / "counted")}).ensure("counted", 2, 1)
    done = Session(PROVIDER, resources, SMALL, lambda *_: None).execute()
    counts = SMALL.usage(PROVIDER.outline({})).counts
    for name in (
        "publish_requests",
        "publish_units",
        "messages_sent",
        "message_bytes_sent",
        "object_puts",
        "object_bytes_written",
        "invocations",
    ):
        assert 0 < done.meter[name] <= counts[name], name
    for name in ("ack_requests", "messages_received", "receive_requests", "object_gets", "object_lists"):
        assert done.meter[name] <= counts[name], name
    assert sum(done.lasts) < sum(seconds for seconds, _ in SMALL.usage(None).functions)


@pytest.mark.parametrize(("provider", "tariff"), [("aws", "aws-us-east-1"), ("gcp", "gcp-us-central1"), ("azure", "azure-eastus2")])
def test_what_it_costs(provider: str, tariff: str) -> None:
    outline = outline_of(provider, {})
    quick, full = (ask.estimate(outline, load_tariff(tariff)) for ask in (QUICK, FULL))
    assert quick.usd is not None
    assert full.usd is not None
    assert 0 < quick.usd < 0.01 < 0.5
    assert quick.usd < full.usd < 0.5
    words = full.words(provider, "127.0.0.1:1")
    assert f"USD by the tariff {tariff}" in words
    assert "an emulator, which bills nothing" in words
    assert "no tariff" in FULL.estimate(None, None).words(provider, None)


# Bad input


def test_too_dear_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    quick = making.QUICK.estimate(find("aws").outline({}), load_tariff("aws-us-east-1")).usd  # type: ignore[attr-defined]
    assert quick is not None
    for most, words in (
        (quick / 2, r"expected at least 0\.\d+$"),
        (1.01 * quick, f"or a quick measurement, which may cost {quick:.4f} USD"),
    ):
        with pytest.raises(InputError, match=rf"max_usd .*: the measurement may cost 0\.\d+ USD by the tariff aws-us-east-1: .*{words}"):
            fsd_core.measure("aws", max_usd=most)  # before it looks for credentials
    assert main(["measure", "--provider", "aws", "--max-usd", "0.00001", "--quick"]) == 2
    assert "--max-usd 1e-05: the measurement may cost" in capfd.readouterr().err
    assert not (tmp_path / "home" / "measured").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-usd", "-1"], "--max-usd -1"),
        (["--provider", "mars"], "provider 'mars' is not installed"),
        (["--memory-mb", "512,x"], "--memory-mb 'x': expected a whole number"),
        (["--report", "/no/such/page.html"], "--report /no/such/page.html: cannot be written"),
    ],
)
def test_wrong_flags(home: Path, capfd: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(["measure", "--quick", *words]) == 2
    assert said in capfd.readouterr().err


# Functions of other sizes


def sized(root: Path, *sizes: int, app: str = "mine", **more: Any) -> fsd_core.Measurement:
    return fsd_core.measure("local", app, {"root": str(root), "concurrency": 16}, quick=True, memory_mb=sizes, **more)


def apps_in(root: Path) -> list[str]:
    return sorted(each.name for each in root.iterdir())


def sizes_in(found: fsd_core.Measurement) -> list[float]:
    assert found.table.measured is not None
    return [memory_mb for memory_mb, _, _ in found.table.measured.sizes]


def test_functions_of_other_sizes_compute_in_apps_of_their_own(tmp_path: Path, home: Path) -> None:
    texts = list[str]()
    found = sized(tmp_path / "root", 1024, 512, 2048, 512, progress=lambda step: texts.append(step.text))
    assert sizes_in(found) == [512, 1024, 2048]  # the last is the size of the app itself
    assert found.table.measured is not None
    assert all(weights_per_s > 1e6 and cores > 0 for _, weights_per_s, cores in found.table.measured.sizes)
    assert texts[0].count("and an app for a while with functions of 512, 1024 MB") == 1
    assert [text for text in texts if "computes" in text] == ["a function of 512 MB computes", "a function of 1024 MB computes"]
    assert apps_in(tmp_path / "root") == ["mine"]
    assert [each["memory_mb"] for each in found.to_json()["sizes"]] == [512, 1024, 2048]
    assert [name for name, _ in facts(found) if name.startswith("kernel with")] == [f"kernel with {size} MB" for size in (512, 1024, 2048)]
    assert found.file is not None
    assert load(str(found.file)).measured == found.table.measured


def test_the_command_measures_sizes(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fsd.toml").write_text(f'[local]\nroot = "{tmp_path}/root"\n')
    assert main(["measure", "--quick", "--memory-mb", "1024, 512", "--json"]) == 0
    assert [each["memory_mb"] for each in json.loads(capfd.readouterr().out)["sizes"]] == [512, 1024, 2048]


@pytest.mark.parametrize("error", [RunFailed(Code.UNAVAILABLE, "no function of this size"), OSError(28, "no space")])
@pytest.mark.parametrize("place", ["provision", "session"])
def test_a_size_that_fails_costs_no_other_figure(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, place: str
) -> None:
    execute, ensure = Session.execute, LocalProvisioner.ensure

    def measured(self: Session) -> Any:
        if place == "session" and self._resources.app == "mine-measure-256mb":
            error.add_note("the slot is still held")
            raise error
        return execute(self)

    def provisioned(self: LocalProvisioner, app: str, ranks: int, slots: int) -> Resources:
        made = ensure(self, app, ranks, slots)
        if place == "provision" and app == "mine-measure-256mb":
            raise error
        return made

    monkeypatch.setattr(Session, "execute", measured)
    monkeypatch.setattr(LocalProvisioner, "ensure", provisioned)
    words = ".*no .*; the slot is still held" if place == "session" else ".*no "
    with pytest.warns(UserWarning, match=f"the kernel of functions of 256 MB was not measured: {words}"):
        found = sized(tmp_path / "root", 256, 512)
    assert sizes_in(found) == [512, 2048]
    assert apps_in(tmp_path / "root") == ["mine"]


def test_an_interrupt_keeps_what_was_measured_and_leaves_no_app(tmp_path: Path, home: Path) -> None:
    def interrupt(step: Progress) -> None:
        if step.text == "a function of 1024 MB computes":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sized(tmp_path / "root", 512, 1024, progress=interrupt)
    measured = load(str(measured_file("local", "here", emulator=False))).measured
    assert measured is not None
    assert [memory_mb for memory_mb, _, _ in measured.sizes] == [512, 2048]
    assert apps_in(tmp_path / "root") == ["mine"]
    assert notes() == []


def test_an_app_that_was_there_is_not_used(tmp_path: Path, home: Path) -> None:
    fsd_core.deploy("local", "mine-measure-512mb", {"root": str(tmp_path / "root")}, workers=1, slots=1)
    with pytest.raises(
        InputError, match=r"^memory_mb 512: app mine-measure-512mb exists: .*'fsd destroy .* mine-measure-512mb' removes it"
    ):
        sized(tmp_path / "root", 512)
    assert apps_in(tmp_path / "root") == ["mine-measure-512mb"]


def test_an_app_that_stays_is_named(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LocalProvisioner, app: str) -> list[str]:
        raise RunFailed(Code.UNAVAILABLE, "not now")

    monkeypatch.setattr(LocalProvisioner, "destroy", refuse)
    said = r"the app mine-measure-512mb of the measurement was not removed: .*not now.*: 'fsd destroy .* mine-measure-512mb' removes it"
    with pytest.warns(UserWarning, match=said):
        sized(tmp_path / "root", 512)


@pytest.mark.parametrize(
    ("provider", "app", "sizes", "said"),
    [
        ("aws", "fsd", [64], "memory_mb 64: .*memory_mb = 64: expected a whole number from 128 to"),
        ("local", "fsd", [0], "memory_mb 0: expected a whole number of at least 1"),
        ("local", "fsd", 512, "memory_mb 512: expected a sequence of whole numbers of MiB"),
        ("local", "a" * 38, [512], "memory_mb 512: app 'a+-measure-512mb': expected a lower-case letter"),
    ],
)
def test_a_wrong_size_is_found_before_anything_is_made(home: Path, provider: str, app: str, sizes: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fsd_core.measure(provider, app, quick=True, memory_mb=sizes)


@pytest.mark.parametrize(("provider", "own"), [("aws", "bucket"), ("gcp", "bucket"), ("azure", "storage_account")])
def test_an_app_for_a_size_has_a_store_of_its_own(provider: str, own: str) -> None:
    settings: dict[str, object] = {own: "minemine12345", "concurrency": 100, "timeout_s": 60}
    if provider == "azure":
        settings["subscription"] = "00000000-0000-0000-0000-000000000001"
    (size,) = sizes_of(provider, "fsd", settings, [512])
    assert isinstance(size.provisioner, AppProvisioner)
    found = size.provisioner.settings
    assert (getattr(found, own), found.memory_mb, found.concurrency, found.timeout_s) == ("", 512, 2, 60)
    assert settings[own] == "minemine12345"


@pytest.mark.parametrize(("provider", "tariff"), [("aws", "aws-us-east-1"), ("azure", "azure-eastus2")])
def test_other_sizes_cost_more(provider: str, tariff: str) -> None:
    priced = load_tariff(tariff)
    (size,) = sizes_of(provider, "fsd", {}, [4096])
    usd = size.estimate(QUICK.kernel, priced)
    one = QUICK.estimate(outline_of(provider, {}), priced)
    both = one.with_size(4096, usd)
    assert one.usd is not None
    assert usd is not None
    assert both.usd == one.usd + usd
    assert usd > 12 * 4 * 0.000016 + hour_usd(priced)
    assert (hour_usd(priced) > 0.01) == (provider == "azure")  # a namespace of Service Bus
    assert "functions of 4096 MB that compute" in both.words(provider, None)


# A function that measures


def launch(home: Path, **more: Any) -> tuple[int, Task, Store, Resources]:
    resources = PROVIDER.provisioner({"root": str(home / "launched")}).ensure("launched", 2, 1)
    store = Store(PROVIDER.objects(resources), Retry(time.time() + 20, Meter()))
    task = Task(name="main", run=new_run(), slot=0, epoch=1, limit_s=5, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(PROVIDER), "attach", lambda self, app: resources)
        return handle(task.payload("launched", time.time() + 10), PROVIDER), task, store, resources


def test_a_second_function_with_a_task_does_nothing(home: Path) -> None:
    code, task, store, resources = launch(home)
    assert code == 0
    answer = store.get(task.answer)
    store.delete([task.answer])
    assert measuring.measure(attrs.asdict(task), PROVIDER, resources, cold=True) == 0
    assert store.find(task.answer) is None
    assert json.loads(answer)["samples"] == {}


def test_the_client_stops_a_function_that_measures(home: Path) -> None:
    resources = PROVIDER.provisioner({"root": str(home / "stopped")}).ensure("stopped", 2, 1)
    store = Store(PROVIDER.objects(resources), Retry(time.time() + 60, Meter()))
    task = Task(name="main", run=new_run(), slot=0, epoch=1, limit_s=300, objects=10_000)
    store.put(task.keys.error, b"{}")
    began = time.monotonic()
    done = threading.Thread(target=measuring.measure, args=(attrs.asdict(task), PROVIDER, resources), kwargs={"cold": True}, daemon=True)
    done.start()
    done.join(60)
    assert not done.is_alive()
    assert time.monotonic() - began < 60
    assert store.find(task.answer) is None


def test_foreign_messages_stay_in_the_queue(home: Path) -> None:
    resources = PROVIDER.provisioner({"root": str(home / "launched"), "lease_s": 0.2}).ensure("launched", 2, 1)
    queue = PROVIDER.messages(resources, 0)
    queue.publish([Message(0, b"FSDf of another run"), Message(0, PROBE + b"of a client that died")])
    code, task, store, _ = launch(home, messages=2)
    assert code == 0
    assert len(json.loads(store.get(task.answer))["samples"]["deliver"]) == 2
    until, got = time.monotonic() + 20, list[Delivery]()
    while not got and time.monotonic() < until:
        got += queue.receive(0, 10, 1)
    assert [each.body for each in got] == [b"FSDf of another run"]


@pytest.mark.parametrize("wrong", [{}, {"name": "x"}, {"limit_s": 1e9}, {"name": "../x"}, {"messages": 10**9}, {"command": "ls"}])
def test_a_wrong_task_is_refused(home: Path, wrong: dict[str, Any]) -> None:
    task = {"name": "main", "run": "0" * 16, "slot": 0, "epoch": 1, "limit_s": 1} | wrong if wrong else {}
    if wrong == {"name": "x"}:
        task = {"name": "x"}
    with pytest.raises(InputError, match=r"^measure: "):
        measuring.measure(task, PROVIDER, Resources("x", 1, 1), cold=True)


def test_messages_of_a_probe() -> None:
    assert len(filler("name", 1000)) == 1000
    assert filler("a", 100) != filler("a", 100)
    assert filler("a", 100).isascii()
    assert noted(note({"ask": 3})) == {"ask": 3}
    assert noted(b"FSDf") == noted(PROBE + b"[1]") == noted(filler("a", 50)) == {}


# Failures


def test_a_function_that_dies_ends_the_measurement(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host of the functions reports a death as the error of the run; the client gives the slot back and says why."""
    monkeypatch.setattr(making, "QUICK", attrs.evolve(SMALL, kernel_s=60.0, limit_s=60.0))
    with pytest.raises(RunFailed, match="the function that measures: exceeded its time limit of 1 s"):
        fsd_core.measure("local", "dying", {"root": str(home / "dying"), "timeout_s": 1}, quick=True)
    objects = PROVIDER.objects(PROVIDER.provisioner({"root": str(home / "dying")}).find("dying") or Resources("dying", 0, 0))
    left = [key for key in objects.list("").keys if not key.startswith("slots/")]
    assert all(key.endswith("/error") for key in left)
    assert any(key.endswith((".left", ".free")) for key in objects.list("slots/").keys)
    assert not measured_file("dying", "here", emulator=False).exists()


def test_an_interrupt_gives_the_slot_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(step: Progress) -> None:
        if step.phase == "measure" and step.done >= 2:
            raise KeyboardInterrupt

    root = home / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        fsd_core.measure("local", "mine", {"root": str(root)}, quick=True, progress=interrupt)
    objects = PROVIDER.objects(PROVIDER.provisioner({"root": str(root)}).find("mine") or Resources("mine", 0, 0))
    assert [key for key in objects.list("").keys if "/run/" in key] == []
    assert any(key.endswith((".left", ".free")) for key in objects.list("slots/").keys)


# The page


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light")])
def test_the_page_in_a_browser(found: fsd_core.Measurement, home: Path, opened: Any, width: int, theme: str) -> None:
    from test_report import CHARTS, WIDE

    page = home / "page.html"
    fsd_core.write_measurement(attrs.evolve(found, stand_in="127.0.0.1:5000"), page)
    opened.log("browser")
    opened.requested()
    opened.open(page, width, theme)
    (chart,) = opened.evaluate(CHARTS)
    assert len(chart["marks"]) == len(found.samples)
    assert min(chart["marks"]) > 0
    assert set(found.samples) <= set(chart["labels"])
    assert chart["outside"] == []
    assert chart["size"] >= 11
    assert opened.evaluate(WIDE) == []
    assert opened.evaluate("return document.documentElement.scrollWidth") <= width
    assert opened.log("browser") == []
    assert {url for url in opened.requested() if url.startswith(("http", "file"))} == {page.as_uri()}
    assert "Measured on an emulator at 127.0.0.1:5000" in opened.evaluate("return document.body.textContent")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if chromium.MISSING:
        pytest.skip(chromium.MISSING)
    with chromium.browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


def test_the_page_without_a_browser(found: fsd_core.Measurement, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    fsd_core.write_measurement(found, page)
    text = page.read_text()
    assert "How the times spread" in text
    assert "emulator" not in text
    (tmp_path / "other.html").write_text("mine")
    with pytest.raises(InputError, match="exists and fsd did not make it"):
        fsd_core.write_measurement(found, tmp_path / "other.html")


def test_a_run_is_known_by_its_keys() -> None:
    task = Task(name="main", run="0" * 16, slot=0, epoch=1, limit_s=1)
    assert task.answer.startswith(RunKeys(task.run).prefix)
    assert json.loads(task.payload("mine", 3.0)) == {"app": "mine", "run": "0" * 16, "deadline": 3.0, "measure": attrs.asdict(task)}
