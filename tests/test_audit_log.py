"""The audit log: that every run leaves an entry, what a check finds, and that no answer is lost because an entry cannot be written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import fsd_core.client.apps
from fsd_core import Model, Result, clean, collect_garbage, destroy, read_audit_log, run
from fsd_core.cli import main
from fsd_core.client import history
from fsd_core.client.job import Progress
from fsd_core.client.marks import Marks, kept_s
from fsd_core.client.trail import digest
from fsd_core.common.sealed import seal
from fsd_core.driver import Code, ObjectDriver, Refused, Resources
from fsd_core.errors import CheckFailed, DriverError, InputError, RunFailed
from fsd_core.model import Layer
from fsd_core.report.record import read_record
from fsd_core.storage import ledger
from fsd_core.storage.ledger import Body, Mark
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.wrappers.around import AroundObjects
from fsd_core.wrappers.metered import MeteredObjects
from fsd_local import PROVIDER, LocalProvider

COUNT = 6
EYE = Layer(weights=np.eye(4, dtype=np.float32), bias=np.zeros(4, np.float32), activation="relu", clip=None, challenge=False)
MODEL = Model((EYE,), "eye")
INPUTS = np.ones((3, 4), np.float32)
DAY_S = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    objects = PROVIDER.objects(PROVIDER.provisioner({"root": str(tmp_path / "root")}).ensure("fsd", 1, 1))
    meter = Meter()
    yield Store(MeteredObjects(objects, meter), Retry(time.time() + 600, meter))
    objects.close()


def filled(store: Store, count: int = COUNT) -> list[Mark]:
    """Write entries, and return them as their writer remembers them."""
    marks: list[Mark] = []
    for number in range(1, count + 1):
        mark, intact = ledger.append(store, {"run": f"run {number}"}, marks[-1] if marks else None)
        assert intact
        marks.append(mark)
    return marks


def requests(store: Store, do: Callable[[], object]) -> dict[str, int]:
    before = store.retry.meter.snapshot()
    do()
    return {name: count - before[name] for name, count in store.retry.meter.snapshot().items() if "object" in name and "bytes" not in name}


def resealed(body: bytes, **changes: Any) -> bytes:
    """An entry with other fields, and with a checksum that fits: as somebody changes it who knows the format."""
    return seal(attrs.asdict(attrs.evolve(ledger.link(body), **changes), recurse=False))


def key(number: int) -> str:
    return f"audit/{number:010d}"


# the chain


def test_a_whole_log_fits(store: Store) -> None:
    assert ledger.check(ledger.read_all(store)) is None
    marks = filled(store)
    found = ledger.read_all(store)
    assert [name for name, _ in found] == [key(number) for number in range(1, COUNT + 1)]
    assert [ledger.link(body).entry["run"] for _, body in found] == [f"run {number}" for number in range(1, COUNT + 1)]
    assert ledger.check(found) is None
    assert ledger.check(found, marks) is None
    assert ledger.read_all(store, 2) == found[-2:]


Change = Callable[[list[Body]], list[Body]]


def at(place: int, change: Callable[[bytes], bytes]) -> Change:
    return lambda found: [(name, change(body) if name == key(place) else body) for name, body in found]


def moved(found: list[Body]) -> list[Body]:
    """Entries 2 and 3 change places."""
    bodies = [body for _, body in found]
    bodies[1], bodies[2] = bodies[2], bodies[1]
    return [(name, body) for (name, _), body in zip(found, bodies, strict=True)]


def moved_and_numbered(found: list[Body]) -> list[Body]:
    return [(name, resealed(body, number=number)) for number, (name, body) in enumerate(moved(found), 1)]


CHANGES: Mapping[str, tuple[Change, int | None, str]] = {
    "changed": (at(3, lambda body: resealed(body, entry={"run": "another"})), 3, "was changed after entry 4 was written"),
    "damaged": (at(3, lambda body: body.replace(b"run 3", b"run 8")), 3, "damaged"),
    "other keys": (at(3, lambda body: seal({"number": 3})), 3, "log: is missing"),
    "removed": (lambda found: found[:2] + found[3:], 3, "is missing: entry 4 is there"),
    "first two removed": (lambda found: found[2:], 1, "is missing, and so are those up to 2: entry 3 is there"),
    "moved": (moved, 2, "written as number 3"),
    "moved and numbered": (moved_and_numbered, 1, "was changed after entry 2"),
    "of another log": (at(3, lambda body: resealed(body, log="0" * 16)), 3, "belongs to another log"),
    "a foreign object": (lambda found: [*found, ("audit/x", b"{}")], None, "audit/x: is no entry"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_first_entry_that_does_not_fit_is_named(store: Store, name: str) -> None:
    change, number, reason = CHANGES[name]
    filled(store)
    misfit = ledger.check(change(ledger.read_all(store)))
    assert misfit is not None
    assert misfit.number == number
    assert reason in misfit.reason


def test_only_who_wrote_the_last_entries_can_miss_them(store: Store) -> None:
    marks = filled(store)
    found = ledger.read_all(store)
    for left, missing in ((COUNT - 1, COUNT), (2, 3), (0, 1)):
        assert ledger.check(found[:left]) is None
        misfit = ledger.check(found[:left], marks)
        assert misfit is not None
        assert misfit.number == missing
        assert "this client wrote it" in misfit.reason
    changed = ledger.check(at(COUNT, lambda body: resealed(body, entry={}))(found), marks)
    assert changed is not None
    assert (changed.number, "is not the entry that this client wrote" in changed.reason) == (COUNT, True)


def test_a_log_that_was_written_anew_is_not_the_one_that_this_client_knows(store: Store) -> None:
    marks = filled(store)
    store.delete_prefix("audit/")
    mark, intact = ledger.append(store, {"run": "anew"}, marks[-1])
    assert (mark.number, intact) == (1, False)
    found = ledger.read_all(store)
    assert ledger.check(found) is None
    misfit = ledger.check(found, [*marks, mark])
    assert misfit is not None
    assert misfit.number == 1


def test_entries_may_be_missing_once_their_time_is_over(store: Store) -> None:
    filled(store, 2)
    old = time.time() - 40 * DAY_S
    store.put(key(2), resealed(store.get(key(2)), at=old))
    marks = [ledger.append(store, {})[0] for _ in range(2)]
    marks.append(Mark(log=marks[0].log, number=2, digest="0" * 64, at=old))
    found = ledger.read_all(store)[2:]
    assert [name for name, _ in found] == [key(3), key(4)]
    assert ledger.check(found, marks, 30 * DAY_S) is None
    misfit = ledger.check(found, marks, 50 * DAY_S)
    assert misfit is not None
    assert misfit.number == 1
    assert ledger.check(found, first=False) is None  # as a saved log
    ledger.append(store, {})
    hole = ledger.check([found[0], *ledger.read_all(store)[4:]], first=False)
    assert hole is not None
    assert hole.number == 4
    store.delete([key(1), key(2)])  # a client that knows no entry goes on behind the last one, not at 1
    assert ledger.append(store, {})[0].number == 6


def test_to_append_costs_few_requests_however_long_the_log_is(store: Store) -> None:
    length = 1200  # in two pages
    body = resealed(seal({"number": 1, "log": "0" * 16, "at": 1.0, "before": None, "before_at": None, "entry": {}}))
    for number in range(1, length + 1):
        store.driver.put(key(number), body)
    marks: list[Mark] = []
    found = requests(store, lambda: marks.append(ledger.append(store, {})[0]))
    assert marks[0].number == length + 1
    assert found["object_lists"] == 1
    assert found["object_gets"] <= 1 + 2 * 9  # the last key of the first page, then forwards and back by powers of two
    found = requests(store, lambda: ledger.append(store, {}, marks[0]))
    assert found == {"object_puts": 1, "object_gets": 1, "object_lists": 0}


def test_clients_that_append_at_once_make_one_chain(store: Store) -> None:
    each, clients = 8, 4

    def client(number: int) -> list[Mark]:
        marks: list[Mark] = []
        for step in range(each):
            marks.append(ledger.append(store, {"run": f"{number} {step}"}, marks[-1] if marks else None)[0])
        return marks

    with ThreadPoolExecutor(clients) as pool:
        marks = [mark for found in pool.map(client, range(clients)) for mark in found]
    found = ledger.read_all(store)
    assert sorted(mark.number for mark in marks) == list(range(1, each * clients + 1))
    assert len({ledger.link(body).entry["run"] for _, body in found}) == each * clients
    heads = {ledger.link(body).log for _, body in found}
    assert len(heads) == 1
    assert ledger.check(found, marks) is None


class Busy(AroundObjects):
    """A store in which another client is always faster."""

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        super().put(key, resealed(bytes(body), entry={"run": "other"}))
        super().put(key, body, if_absent=if_absent)


def test_a_client_that_always_loses_gives_up(store: Store) -> None:
    busy = Store(Busy(store.driver), store.retry)
    with pytest.raises(DriverError, match=f"other clients took {ledger.TRIES} numbers"):
        ledger.append(busy, {})
    assert ledger.check(ledger.read_all(store)) is None


# of runs


@attrs.frozen
class App:
    """An app and a home, with one run that was done, one that failed and one that was interrupted."""

    home: Path
    settings: Mapping[str, object]

    def run(self, **options: Any) -> Result:
        return run(MODEL, INPUTS, workers=1, settings=self.settings, home=self.home, note={"model": "eye"}, **options)


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path / "home", {"root": str(tmp_path / "root")})


@pytest.fixture
def fsd(app: App, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: exit code, standard output, standard error."""
    monkeypatch.setenv("FSD_HOME", str(app.home))
    monkeypatch.chdir(app.home.parent)
    Path("fsd.toml").write_text(f'[local]\nroot = "{app.settings["root"]}"\n')

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_runs_that_were_done_failed_and_interrupted_leave_entries(app: App, fsd: Callable[..., tuple[int, str, str]]) -> None:
    def interrupt(step: Progress) -> None:
        if step.phase == "launch":
            raise KeyboardInterrupt

    assert fsd("audit", "log", "--verify") == (0, "audit log of app fsd on local: no entries\nnothing to check\n", "")
    done = app.run()
    with pytest.raises(RunFailed) as failed:
        app.run(faults="kill=0@1", recovery="off")
    with pytest.raises(KeyboardInterrupt):
        app.run(progress=interrupt)
    app.run(audit_log="off")
    log = read_audit_log("local", settings=app.settings, home=app.home)
    log.verify()
    first, second, third = log.entries
    assert [entry.what["outcome"] for entry in log.entries] == ["done", "failed", "interrupted"]
    assert (first.what["run"], first.what["model"]["name"], first.what["model"]["digest"]) == (done.run, "eye", MODEL.digest)
    assert first.what["output"] == {"digest": digest(done.output)}
    assert len({entry.what["input"]["digest"] for entry in log.entries}) == 1
    assert first.what["caller"]["identity"] == "none are needed"
    assert (second.what["error"]["code"], second.what["output"], second.what["usd"]) == (failed.value.code.name, None, None)
    assert done.audit is not None
    assert (done.audit["entry"], done.audit["digest"]) == (1, first.digest)
    counted = {name: done.meter[name] - count for name, count in first.what["requests"].items() if name.startswith("object")}
    assert {name: counted[name] for name in ("object_puts", "object_gets", "object_lists")} == {  # the first client lists, then creates
        "object_puts": 1,
        "object_gets": 0,
        "object_lists": 1,
    }
    record = read_record(app.home / "runs" / f"{done.run}.json")
    assert record["audit"] == done.audit
    for entry in log.entries:
        past = history.read_log(entry.what["run"], app.home)
        assert past.state == entry.what["outcome"]
        assert past.audit is not None
        assert past.audit["digest"] == entry.digest
    assert "audit log" in fsd("audit", "log")[1].lower()
    assert [row["number"] for row in json.loads(fsd("audit", "log", "--last", 2, "--json")[1])["entries"]] == [2, 3]
    rows = list(csv.DictReader(io.StringIO(fsd("audit", "log", "--csv", "--verify")[1])))
    assert [(row["number"], row["outcome"], row["digest"]) for row in rows] == [
        ("1", "done", first.digest),
        ("2", "failed", second.digest),
        ("3", "interrupted", third.digest),
    ]
    # fsd clean removes neither the log nor what this client remembers of it
    clean("local", settings=app.settings, home=app.home)
    read_audit_log("local", settings=app.settings, home=app.home).verify()
    folder = Path(str(app.settings["root"])) / "fsd" / "objects" / "audit,"
    last = sorted(folder.iterdir())[-1]
    kept = last.read_bytes()
    last.unlink()
    code, out, err = fsd("audit", "log", "--verify", "--json")
    assert code == 1
    assert json.loads(out)["misfit"]["number"] == 3
    assert "entry 3 does not fit: it is missing: this client wrote it" in err
    last.write_bytes(kept)
    # fsd destroy saves it
    code, out, err = fsd("destroy")
    assert code == 0, err
    (saved,) = (app.home / "audit").iterdir()
    assert str(saved) in "".join(out.split())
    again = read_audit_log(saved=saved)
    again.verify()
    assert again.to_json()["entries"] == log.to_json()["entries"]
    saved.write_bytes(saved.read_bytes().replace(b"interrupted", b"INTERRUPTED"))
    with pytest.raises(CheckFailed, match="entry 3 does not fit"):
        read_audit_log(saved=saved).verify()
    assert read_audit_log("local", settings=app.settings, home=app.home).entries == []


class Forbidding(AroundObjects):
    """A bucket whose policy forbids the prefix of the audit log."""

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        self._admit(key)
        super().put(key, body, if_absent=if_absent)

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        self._admit(key)
        return super().get(key, start, end)

    def delete(self, keys: Sequence[str]) -> Sequence[Any]:
        for key in keys:
            self._admit(key)
        return super().delete(keys)

    @staticmethod
    def _admit(key: str) -> None:
        if key.startswith("audit/"):
            raise Refused(Code.DENIED, "the policy of the bucket forbids audit/*")


class ForbiddingProvider(LocalProvider):
    def objects(self, resources: Resources) -> ObjectDriver:
        return Forbidding(super().objects(resources))


def test_an_answer_is_not_lost_because_its_entry_cannot_be_written(
    app: App, fsd: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fsd_core.client.apps, "find", lambda name: ForbiddingProvider())
        with pytest.warns(UserWarning, match=r"the answer is complete, but the run has no entry in the audit log: .*forbids audit"):
            result = app.run()
        assert (result.output.toarray() == 1).all()
        assert result.audit is not None
        assert "forbids audit/*" in result.audit["error"]
        assert "forbids" in read_record(app.home / "runs" / f"{result.run}.json")["audit"]["error"]
        with pytest.raises(RunFailed) as caught:
            app.run(faults="kill=0@1", recovery="off")
        assert any("this run has no entry in the audit log" in note for note in caught.value.__notes__)
    app.run()
    with monkeypatch.context() as patch:
        patch.setattr(fsd_core.client.apps, "find", lambda name: ForbiddingProvider())
        code, _, err = fsd("destroy")
        assert code == 3
        assert "cannot be saved, and the app stays as it is" in err
        assert not (app.home / "audit").exists()
    assert len(read_audit_log("local", settings=app.settings, home=app.home).entries) == 1
    lines = destroy("local", settings=app.settings, home=app.home, audit_log="delete")
    assert lines
    assert not any("audit" in line for line in lines)


def test_entries_are_kept_for_their_time(app: App, store: Store) -> None:
    settings = {**app.settings, "audit_retention_days": 30}
    filled(store, 4)
    for number, days in ((1, 50), (2, 40)):
        written = time.time() - days * DAY_S
        (path,) = (Path(str(app.settings["root"])) / "fsd" / "objects").rglob(f"{number:010d}*")
        os.utime(path, (written, written))
    assert collect_garbage("local", settings=app.settings) == 0
    assert len(ledger.read_all(store)) == 4
    collect_garbage("local", settings=settings)
    assert [name for name, _ in ledger.read_all(store)] == [key(3), key(4)]
    kept = PROVIDER.provisioner(app.settings).ensure("fsd", 1, 1)
    assert kept == PROVIDER.provisioner(app.settings).find("fsd")  # which knows that entries of 31 days may be missing
    assert 29.9 < kept_s(kept) / DAY_S < 30.1
    with pytest.raises(CheckFailed, match="entry 1 does not fit: it is missing, and so are those up to 2"):
        read_audit_log("local", settings=settings, home=app.home).verify()  # by what entry 3 says, entry 2 is of today


def test_wrong_arguments_are_named(fsd: Callable[..., tuple[int, str, str]], app: App) -> None:
    for words, named in (
        (("--verify", "--last", 3), "--verify: checks the whole log"),
        (("--csv", "--json"), "--csv: expected it without --json"),
        (("--last", 0), "--last 0: expected a whole number of at least 1"),
        (("--saved", "missing.jsonl"), "missing.jsonl: no such file"),
    ):
        code, _, err = fsd("audit", "log", *words)
        assert code == 2
        assert named in err
    marks = Marks.of(PROVIDER, PROVIDER.provisioner(app.settings).ensure("fsd", 1, 1), app.home)
    assert marks.file is not None
    assert (marks.newest(), marks.read()) == (None, [])
    written = [Mark(log="0" * 16, number=number, digest="0" * 64, at=float(number)) for number in range(1, 20)]
    for mark in written:
        marks.add(mark)
    assert (marks.newest(), marks.read()) == (written[-1], written)
    marks.file.write_text("{}\n")
    assert marks.newest() is None  # so a run goes on as a client that knows no entry
    with pytest.raises(InputError, match="line 1 is damaged: log: is missing"):
        read_audit_log("local", settings=app.settings, home=app.home)


def test_what_somebody_wrote_into_an_entry_spoils_no_table(app: App, fsd: Callable[..., tuple[int, str, str]], store: Store) -> None:
    """Neither the CSV table nor the screen: formulas, line ends, control characters, names between colons, NaN."""
    ledger.append(store, {"caller": {"user": "\r=1+1\n,x", "machine": "\x1b[31ma:key:b", "identity": "=1+1"}})
    first = store.get(key(1))
    second = resealed(first, number=2, before=ledger.digest_of(first), entry={"usd": 1.5})[23:].replace(b"1.5", b"NaN")
    store.put(key(2), b'{"checksum": "%08x"%b' % (zlib.crc32(second), second))
    (row,) = csv.DictReader(io.StringIO(fsd("audit", "log", "--csv")[1]))
    assert (row["user"], row["machine"], row["identity"]) == ("?=1+1?,x", "?[31ma:key:b", "'=1+1")
    assert "\x1b" not in fsd("audit", "log")[1]
    code, out, err = fsd("audit", "log", "--verify", "--json")
    assert (code, json.loads(out)["misfit"]["number"]) == (1, 2)
    assert "NaN: expected a finite number" in err


def test_options_before_the_subcommand_are_refused(fsd: Callable[..., tuple[int, str, str]], app: App) -> None:
    """It would not get them, and would check the log of another app."""
    for words in (("--app", "other"), ("--json",), ("--provider", "local")):
        code, out, err = fsd("audit", *words, "log", "--verify")
        assert (code, out if words != ("--json",) else "") == (2, "")
        assert f"{words[0]}: stands before 'log': expected it after 'log'" in err


def test_a_line_that_a_full_disk_cut_spoils_no_marks(app: App) -> None:
    first = app.run()
    marks = Marks.of(PROVIDER, PROVIDER.provisioner(app.settings).ensure("fsd", 1, 1), app.home)
    assert marks.file is not None
    with marks.file.open("a") as file:
        file.write('{"log": "ab')
    assert [mark.number for mark in marks.read()] == [1]
    assert marks.newest() == marks.read()[-1]
    second = app.run()
    assert first.audit
    assert second.audit
    assert [mark.digest for mark in marks.read()] == [first.audit["digest"], second.audit["digest"]]
    read_audit_log("local", settings=app.settings, home=app.home).verify()


def test_no_warning_of_an_entry_whose_time_is_over(app: App, store: Store) -> None:
    app.run()
    marks = Marks.of(PROVIDER, PROVIDER.provisioner(app.settings).ensure("fsd", 1, 1), app.home)
    (mark,) = marks.read()
    marks.forget()
    marks.add(attrs.evolve(mark, at=time.time() - 366 * DAY_S))
    store.delete([key(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.run()
    read_audit_log("local", settings=app.settings, home=app.home).verify()
    store.delete([key(1)])
    with pytest.warns(UserWarning, match="has lost entry 1, which this client wrote"):
        app.run()


def test_an_answer_is_not_lost_because_there_are_no_more_threads(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refused(self: threading.Thread) -> None:
        if self.name in ("fsd-audit", "fsd-cleanup"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.warns(UserWarning, match="no entry in the audit log: can't start new thread") as warned:
        result = app.run()
    assert (result.output.toarray() == 1).all()
    assert any("the clean-up is not" in str(each.message) for each in warned)


def test_a_log_that_was_removed_with_its_app_does_not_fit(app: App, fsd: Callable[..., tuple[int, str, str]]) -> None:
    app.run()
    shutil.rmtree(str(app.settings["root"]))
    code, _, err = fsd("audit", "log", "--verify")
    assert code == 1
    assert "the app does not exist, but this client wrote entry 1 of the log of an app of this name" in err
    assert fsd("audit", "log", "--verify", "--app", "other")[0] == 0
    assert fsd("audit", "log", "--last", 1)[0] == 0
