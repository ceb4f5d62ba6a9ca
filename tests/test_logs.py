"""What workers say: how it is bounded and cleaned, that it arrives however a run ends, and how the commands show it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fsd_core.client.apps
import fsd_core.client.cleanup
from dying_functions import TRAP, DyingProvider
from fsd_core import Result, run
from fsd_core.cli import main
from fsd_core.client import collect, history
from fsd_core.client.result import check_rank
from fsd_core.common import logfile, logs
from fsd_core.common.logs import LIMIT_BYTES, Journal, Line, masked
from fsd_core.common.sealed import seal, unseal
from fsd_core.driver import Code, Refused
from fsd_core.errors import InputError, RunFailed
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.storage.keys import RunKeys, new_run
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.worker import lines as worker_lines
from fsd_core.wrappers.metered import MeteredObjects
from fsd_local import PROVIDER
from waiting import until

WORKERS = 3
NEVER_S = 1e6


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    resources = PROVIDER.provisioner({"root": str(tmp_path / "root")}).ensure("fsd", WORKERS, 4)
    objects = PROVIDER.objects(resources)
    meter = Meter()
    yield Store(MeteredObjects(objects, meter), Retry(time.time() + 600, meter))
    objects.close()


@pytest.fixture
def start(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A function that runs with the functions of `dying_functions`, whose trap is ``order``. Workers may take long to leave their lines."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(fsd_core.client.apps, "find", lambda name: DyingProvider())
    monkeypatch.setattr(fsd_core.client.cleanup, "LINES_S", 60.0)
    monkeypatch.setattr(fsd_core.client.cleanup, "LAST_LINES_S", 50.0)

    def start(order: dict[str, Any] | None = None, **options: Any) -> Result:
        monkeypatch.setenv(TRAP, json.dumps({"lines": NEVER_S} | (order or {})))
        defaults = {"workers": WORKERS, "channel": "queue", "partition": "block", "timeout": 100.0}
        table = {"root": str(tmp_path / "root")}
        return run(radixnet(1024, 6), open_inputs("random:40:0.4:1", 1024), settings=table, home=home, **(defaults | options))

    return start


@pytest.fixture
def fsd(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command in this process, with the runs of `start`: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSD_HOME", str(home))

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def said(past: history.RunLog) -> dict[int, str]:
    return {rank: "\n".join(line.text for line in lines) for rank, lines in past.lines.items()}


def only(home: Path) -> history.RunLog:
    """The only past run."""
    (found,) = history.runs(home)
    return history.read_log(found, home)


# lines


@given(st.lists(st.text(max_size=300), max_size=60), st.integers(600, 6000))
def test_a_journal_keeps_the_first_and_the_last_lines_within_its_limit(texts: list[str], limit: int) -> None:
    journal = Journal(limit)
    given = [Line(float(number), "info", "fsd_core.x", text) for number, text in enumerate(texts)]
    for line in given:
        journal.add(line)
    kept = [Line(*line) for line in journal.lines()]
    mark = [line for line in kept if line.name == logs.__name__]
    ours = [line for line in kept if line.name != logs.__name__]
    assert sum(len(json.dumps(line.packed())) + 2 for line in ours) <= limit
    assert len(ours) + journal.dropped == len(given)
    assert [line.text.split()[0] for line in mark] == ([str(journal.dropped)] if journal.dropped else [])
    first = kept.index(mark[0]) if mark else len(ours)
    assert ours[:first] == given[:first]
    assert ours[first:] == given[len(given) - len(ours) + first :]


def test_a_journal_of_a_worker_that_says_much_fits_its_record() -> None:
    journal = Journal()
    logger = logging.Logger("fsd_core.x")
    logger.addHandler(journal)
    for number in range(20_000):
        logger.info("line %d: %s", number, "ü" * 100)
    packed = json.dumps(journal.lines())
    assert LIMIT_BYTES / 2 < len(packed) < LIMIT_BYTES + 500
    assert "line 0:" in packed
    assert "line 19999:" in packed
    logger.info("%d is no number", "one")  # a mistake of a library
    logger.info("x" * 5000)
    assert all(len(text) <= logs.LINE_CHARS + 3 for *_, text in journal.lines())


SECRETS = [
    "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=root;SharedAccessKey={}",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=core.windows.net",
    "https://a.blob.core.windows.net/c/b?sv=2024&sig={}&se=2025",
    "https://x.azurewebsites.net/api/worker?code={}",
    "https://b.s3.amazonaws.com/k?X-Amz-Credential={}&X-Amz-Date=1",
    "https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature={}",
    "Authorization: Bearer {}",
    "{{'x-functions-key': '{}', 'Content-Type': 'x'}}",
    '{{"access_token": "{}", "expires_in": 3599}}',
    "AWS_SECRET_ACCESS_KEY={} is wrong",
    "AZURE_CLIENT_SECRET: {}",
    "proxy http://user:{}@proxy.example:3128 refused",
    "SharedAccessSignature {}",
    "password={}",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    '"private_key": "-----BEGIN PRIVATE KEY-----\\nMII=\\n{}\\n-----END PRIVATE KEY-----\\n", "x": 1',
    "'private_key': '-----BEGIN RSA PRIVATE KEY-----\n{}\n', 'x': 1",
    "private_key = -----BEGIN PRIVATE KEY----- {} -----END PRIVATE KEY-----",
    '"password": "some, {} & more"',
    "client_secret='a b; {}' x",
    r"{{\"client_secret\": \"a {}\"}}",
    "https://a.blob.core.windows.net/c%3Fsv%3D2024%26sig%3D{}%26se%3D2025",
    "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/2026/us/s3, SignedHeaders=host, Signature={}",
    "{{'AccessKeyId': 'AKIA', 'Token': '{}'}}",
    "api-key: {}",
    "x-goog-api-key={}",
    "http://user:p@ss:{}@proxy.example:3128 refused",
]


@pytest.mark.parametrize("form", SECRETS)
@pytest.mark.parametrize("secret", ["Zm9vYmFyYmF6cXV4", "a1/+b2Fz==", "eyJhbGciOi.J9-_x.y"])
def test_a_secret_is_masked(form: str, secret: str) -> None:
    assert secret not in masked(form.format(secret))
    assert "***" in masked(form.format(secret))


def test_a_line_has_only_letters_that_can_be_printed() -> None:
    assert masked("a\x1b[2J\ud800\u2028b\n c") == r"a\x1b[2J\ud800 b c"


def test_a_long_text_is_masked_at_once() -> None:
    for word in ("secret", "x", "://", "://:", "-----BEGIN ", "token "):  # a pattern that reads on from each word would take minutes
        text = (word * 20_000).strip()
        assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "THROTTLED: get ab12/run/claim/3: InjectedError: injected THROTTLED",
        "the function ended: 503 Service Unavailable: status code: 503",
        "retry 3 in 0.12 s: UNAVAILABLE: publish to rank 1, 2: EndpointConnectionError: Could not connect to http://127.0.0.1:4566/",
        "AZURE_CLIENT_ID and the secret or certificate do not belong together",
        "http://127.0.0.1:8080/a/b: sent to a@b",
        "the signature of the request does not match; the token expired",
    ],
)
def test_other_text_is_not(text: str) -> None:
    assert masked(text) == text


def test_a_retry_is_told_with_code_attempt_and_wait(caplog: pytest.LogCaptureFixture) -> None:
    class Driver:
        service = "made up"
        tries = 0

        def request(self) -> int:
            self.tries += 1
            if self.tries < 3:
                raise Refused(Code.THROTTLED, "slow down: SharedAccessKey=hush")
            return self.tries

        def classify(self, error: BaseException) -> Code:
            return Code.THROTTLED

    caplog.set_level(logging.INFO, "fsd_core")
    driver = Driver()
    assert Retry(time.time() + 60, Meter()).call(driver, "put x", driver.request) == 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    for number, line in enumerate(told, 1):
        assert line.startswith(f"retry {number} in 0.0")
        assert line.endswith("s: THROTTLED: put x: Refused: slow down: SharedAccessKey=***")


# how lines travel


def test_the_lines_of_a_healthy_run_come_with_its_records_and_cost_no_request(start: Callable[..., Result], home: Path) -> None:
    start()  # stages
    began = time.monotonic()
    result = start()
    lasted = time.monotonic() - began  # a worker may end later than the answer is there
    past = history.read_log(result.run, home)
    assert (past.state, past.error, past.workers, past.provider) == ("done", None, WORKERS, "local")
    for rank, text in said(past).items():
        assert f"rank {rank} starts after a cold start of " in text
        assert f"claimed rank {rank}" in text
        assert "loads 6 layers over the queue channel, 3 workers" in text
        assert "writes the record" in text
    assert sorted(past.lines) == [0, 1, 2]
    for record in result.ranks:  # the readers of records see no lines
        check_rank(record)
        assert "log" not in record
    staged_nothing = 4  # lease, configuration, lease given back, entry of the audit log
    progress = 1  # rank 0 may report how far it is, after two seconds
    puts = result.meter["object_puts"] - 3 * WORKERS - staged_nothing  # each rank: claim, output, record
    assert 0 <= puts <= progress * 10 - 1
    assert puts == 0 or lasted > 2


def test_what_every_rank_of_a_failed_run_said_is_kept(start: Callable[..., Result], home: Path, fsd: Any) -> None:
    with pytest.raises(RunFailed, match="made up"):
        start({"rank": 1, "at": "layers", "raises": "made up, AccountKey=hush"})
    past = only(home)
    assert past.state == "failed"
    assert past.failure is not None
    assert (past.failure.code, past.failure.rank, past.failure.layer) == ("UNKNOWN", 1, 1)
    texts = said(past)
    assert "fails: UNKNOWN: rank 1, layer 1: ValueError: made up, AccountKey=***" in texts[1]
    assert "raised in dying_functions.py:" in texts[1]
    for rank in (0, 2):
        assert "stops: this failure ended the run: UNKNOWN: rank 1, layer 1: ValueError: made up" in texts[rank]
    assert "hush" not in (home / "runs" / f"{past.run}.log").read_text()
    code, out, err = fsd("logs", past.run[:6])
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"run {past.run}: failed after ")
    assert lines[-1] == "the run failed: UNKNOWN: rank 1, layer 1: ValueError: made up, AccountKey=***"
    assert {line.split()[0] for line in lines[1:-1]} == {"0", "1", "2"}
    times = [line.split()[1] for line in lines[1:-1]]
    assert times == sorted(times)


@pytest.mark.parametrize("channel", ["queue", "object"])
def test_what_a_killed_function_said_is_kept(start: Callable[..., Result], home: Path, fsd: Any, channel: str) -> None:
    with pytest.raises(RunFailed, match="killed by signal 9"):
        start({"rank": 1, "at": "layers"}, channel=channel, recovery="off")
    past = only(home)
    assert f"loads 6 layers over the {channel} channel" in said(past)[1]
    assert "stops: this failure ended the run: UNAVAILABLE: rank 1, layer 1: killed by signal 9" in said(past)[0]
    code, out, _ = fsd("logs", past.run, "--rank", 1)
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()[1:-1]} == {"1"}
    assert out.splitlines()[-1] == "the run failed: UNAVAILABLE: rank 1, layer 1: killed by signal 9"


def test_each_launch_of_a_worker_that_does_not_start_is_told(
    start: Callable[..., Result], home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the process that launches it: here the client."""
    caplog.set_level(logging.INFO, "fsd_core")
    with pytest.raises(RunFailed, match="did not start") as caught:
        start({"rank": 1, "at": "claim", "start_s": 0.5})
    log = only(home)
    assert caught.value.__notes__ == [f"fsd logs {log.run} shows what the workers said"]
    told = [record for record in caplog.records if record.name == "fsd_core.protocol.spawn" and "rank 1" in record.getMessage()]
    launched = [record.getMessage() for record in told if record.levelno == logging.INFO]
    again = [record.getMessage() for record in told if record.levelno == logging.WARNING]
    assert launched == [f"launches rank 1, attempt {number}" for number in range(4)]
    assert [re.sub(r"[\d.]+ s", "N s", text) for text in again] == [
        f"rank 1: no claim N s after launch {number}: launches it again" for number in (1, 2, 3)
    ]
    assert 1 not in log.lines


def test_debug_lines_are_kept_if_the_client_logs_them(start: Callable[..., Result], home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fsd_core")
    result = start()
    past = history.read_log(result.run, home)
    for text in said(past).values():
        for words in ("begins layer 6", "publishes ", "messages while step", "acknowledges "):
            assert words in text
    assert {line.level for line in past.lines[0]} == {"info", "debug"}


def test_a_worker_that_works_long_writes_its_lines_and_stops_at_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_lines, "FIRST_S", 0.01)
    journal, meter = Journal(), Meter()
    lines = worker_lines.Lines(journal, 1, MeteredObjects(store.driver, meter), "r/run/log/1", time.time() + 100, meter)
    lines.start("info")
    journal.add(Line(1.0, "info", "x", "first"))
    assert until(lambda: store.find("r/run/log/1"))
    count = meter.snapshot()["object_puts"]
    journal.add(Line(2.0, "info", "x", "second"))
    until(lambda: meter.snapshot()["object_puts"] > count)
    assert [line[3] for line in unseal(store.get("r/run/log/1"), "it")["log"]] == ["first", "second"]
    lines.finish()
    count = meter.snapshot()["object_puts"]
    assert count == 2  # one for each new line, however often it looked
    assert not [each for each in threading.enumerate() if each.name == "lines"]


def test_workers_first_write_their_lines_one_after_another() -> None:
    moments = sorted(map(worker_lines.first_s, range(64)))
    assert moments[0] == worker_lines.FIRST_S
    gaps = [later - sooner for sooner, later in pairwise([*moments, 2 * worker_lines.FIRST_S])]
    assert min(gaps) > 0
    assert max(gaps) < 3 * worker_lines.FIRST_S / len(moments)


def test_a_worker_that_failed_writes_nothing_once_the_run_is_over(store: Store) -> None:
    worker_lines.leave(Journal(), store.driver, "r/run/log/1", "r/run/config", Meter())
    assert store.find("r/run/log/1") is None
    store.put("r/run/config", b"{}")
    worker_lines.leave(Journal(), store.driver, "r/run/log/1", "r/run/config", Meter())
    assert store.find("r/run/log/1") is not None


def test_lines_are_taken_from_the_latest_object_of_a_rank(store: Store) -> None:
    keys, found = RunKeys(new_run()), dict[int, list[Any]]()
    for rank, names in enumerate((("claim",), ("claim", "log"), ("claim", "log", "record"), ("claim", "log"))):
        for name in names:
            store.put(getattr(keys, name)(rank), seal({"log": [[1.0, "info", "x", f"{name} {rank}"]]}))
    store.put(keys.log(3), b"{damaged}")
    listed = set(store.keys(keys.prefix))
    assert collect.ranks(keys, listed) == [0, 1, 2, 3]
    before = store.retry.meter.snapshot()["object_gets"]
    collect.lines(store, keys, listed, found)
    assert {rank: lines[0][3] for rank, lines in found.items()} == {0: "claim 0", 1: "log 1", 2: "record 2", 3: "claim 3"}
    assert store.retry.meter.snapshot()["object_gets"] - before == 5  # one each, and one more for the damaged one


def test_the_file_of_a_killed_function_stays_small_and_readable(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w+b", buffering=0) as file:
        handler = logfile.LogFile(file.fileno())
        logger = logging.Logger("fsd_core.x")
        logger.addHandler(handler)
        for number in range(10_000):
            logger.info("line %d", number)
        size = os.fstat(file.fileno()).st_size
        assert size <= logfile.FULL_BYTES
        os.pwrite(file.fileno(), b'[1.0, "info", "x", "cut', size)  # it was killed in the middle
        texts = [line[3] for line in logfile.read(file.fileno())]
    assert texts[0] == "line 0"
    assert texts[-1] == "line 9999"
    assert any("lines are dropped here" in text for text in texts)


def test_where_nobody_else_handles_them_lines_go_to_standard_error() -> None:
    """Platforms keep it as the log of a function."""
    code = "from fsd_core.worker import handle; from fsd_local import PROVIDER; handle(b'{}', PROVIDER); handle(b'[]', PROVIDER)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split(None, 1)[1] for line in done.stderr.splitlines()] == [
        "error   fsd_core.worker.program: the launch cannot be read: KeyError: 'app'",
        "error   fsd_core.worker.program: the launch cannot be read: TypeError: list indices must be integers or slices, not str",
    ]


def test_a_library_says_nothing_by_itself() -> None:
    """Python writes warnings that nobody handles to standard error."""
    code = "import logging, fsd_core.storage.retry; logging.getLogger('fsd_core.storage.slots').error('a lease')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr == ""


# the commands


def test_verbose_lines_go_to_standard_error_only(fsd: Any) -> None:
    code, out, err = fsd("run", "radixnet:1024:6", "random:20", "--workers", 2, "--partition", "block", "--json", "-v")
    assert code == 0, err
    assert out.count("\n") == 1
    run_id = json.loads(out)["run"]
    assert f"fsd_core.client.job: run {run_id}: 2 workers on local" in err
    assert "fsd_core.protocol.spawn: launches rank 0, attempt 0" in err
    assert f"run {run_id} leases slot" in err
    assert " debug " not in err
    assert logging.getLogger("fsd_core").level == logging.NOTSET  # as before the command
    assert "fsd_core." not in fsd("runs")[2]


def test_very_verbose_keeps_the_workers_debug_lines(fsd: Any) -> None:
    code, out, err = fsd("run", "radixnet:1024:6", "random:20", "--workers", 2, "--partition", "block", "--json", "-vv", "--channel=queue")
    assert code == 0
    past = json.loads(fsd("logs", json.loads(out)["run"], "--json")[1])
    assert {line["rank"] for line in past["lines"] if line["level"] == "debug"} == {0, 1}
    assert " info    fsd_core" in err


def test_libraries_stay_quiet_below_warning(capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("some.library")
    with logs.shown(1):
        library.info("quiet")
        library.warning("heard")
    with logs.shown(2):
        library.debug("a payload")
        library.info("loud")
    err = capsys.readouterr().err
    assert [word for word in ("quiet", "heard", "a payload", "loud") if word in err] == ["heard", "loud"]


def test_runs_are_listed_with_how_they_ended(start: Callable[..., Result], home: Path, fsd: Any) -> None:
    assert fsd("runs") == (0, f"no past runs in {home / 'runs'}: fsd run makes one, for instance: fsd run radixnet:1024:12 random:60\n", "")
    assert fsd("runs", "--json")[1] == '{"runs": []}\n'
    done = start(note={"model": "mine"}).run
    with pytest.raises(RunFailed):
        start({"rank": 0, "at": "layers"})
    failed = history.runs(home)[-1]
    rows = json.loads(fsd("runs", "--json")[1])["runs"]
    assert [(row["run"], row["state"], row["code"]) for row in rows] == [(done, "done", None), (failed, "failed", "UNAVAILABLE")]
    assert (rows[0]["model"], rows[0]["provider"], rows[0]["usd"], rows[1]["usd"]) == ("mine", "local", 0.0, None)
    assert all(0 < row["seconds"] < 100 and abs(row["began"] - time.time()) < 3600 for row in rows)
    assert rows[1]["model"] == radixnet(1024, 6).digest
    code, out, err = fsd("runs")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["run", "when", "model", "provider", "seconds", "US", "dollars", "state"]
    assert out.splitlines()[1].startswith(done)
    assert out.splitlines()[2].endswith("failed UNAVAILABLE")
    (home / "runs" / f"{failed}.log").write_bytes(b"x" * 100)
    (home / "runs" / f"{done}.log").unlink()  # as an earlier version of fsd left it
    assert [(row["state"], row["model"]) for row in json.loads(fsd("runs", "--json")[1])["runs"]] == [("done", "mine"), ("damaged", None)]


def test_an_interrupted_run_is_listed(home: Path, tmp_path: Path, fsd: Any) -> None:
    words = [
        "run",
        "radixnet:1024:120",
        "random:40",
        "--workers",
        "2",
        "--partition",
        "block",
        "--channel=queue",
        "--faults=delay=2s",
        "-v",
    ]
    environment = os.environ | {"FSD_HOME": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-m", "fsd_core.cli", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert process.stderr is not None
    with process.stderr:
        while "launches rank 0" not in (line := process.stderr.readline()):
            assert line, "it ended before its launch"
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.wait() == 130
    (row,) = json.loads(fsd("runs", "--json")[1])["runs"]
    assert (row["state"], row["code"], row["model"]) == ("interrupted", None, "radixnet:1024:120")
    code, out, _ = fsd("logs", row["run"])
    assert code == 0
    assert out.startswith(f"run {row['run']}: interrupted after ")


@pytest.fixture
def kept(home: Path) -> history.RunLog:
    """A past run, and another whose id starts with the same characters."""
    facts: dict[str, Any] = {"model": "m", "provider": "local", "stand_in": None, "workers": 2}
    past = history.made("ab12" * 4, time.time() - 1, None, {0: [[1.0, "info", "fsd_core.x", "hello"], ["no line"]]}, **facts)
    for each in (past, history.made("ab13" * 4, time.time() - 1, RunFailed(Code.DENIED, "no"), {}, **facts)):
        history.keep(each, home)
    return past


def test_a_past_run_comes_back_as_it_was(kept: history.RunLog, home: Path, fsd: Any) -> None:
    assert history.read_log(kept.run, home) == kept
    assert kept.lines == {0: [Line(1.0, "info", "fsd_core.x", "hello")]}
    shown = json.loads(fsd("logs", "ab12", "--json")[1])
    line = {"rank": 0, "at": 1.0, "level": "info", "name": "fsd_core.x", "text": "hello"}
    assert shown == {"run": kept.run, "state": "done", "error": None, "ranks_without_lines": [1], "lines": [line]}
    code, out, _ = fsd("logs", "ab12", "--rank", 1)
    assert (code, out.splitlines()[1:]) == (0, ["rank 1 left no lines"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("ab",), "run ab: 2 runs start with these characters: "),
        (("ab14",), "run ab14: no past run has this id in .*; did you mean ab1[23].*? fsd runs lists the past runs"),
        (("77",), "run 77: no past run has this id in .*; fsd runs lists the past runs"),
        (("../x",), "run '../x': expected the id of a run, or its first characters: hexadecimal digits; fsd runs lists"),
        (("",), "run '': expected a text that is not empty"),
        (("ab12", "--rank", "2"), f"--rank 2: run {'ab12' * 4} has 2 workers: expected a rank from 0 to 1"),
        (("ab12", "--rank", "-1"), "--rank -1: expected a whole number of at least 0"),
        (("ab12", "--rank", "x"), "--rank 'x': expected a whole number of at least 0"),
    ],
)
@pytest.mark.usefixtures("kept")
def test_wrong_words_are_one_line(fsd: Any, words: tuple[str, ...], told: str) -> None:
    code, out, err = fsd("logs", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(f"^fsd: {told}", err), err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file.unlink(), "its log is missing: expected the file"),
        (lambda file: file.write_bytes(file.read_bytes().replace(b"hello", b"hellx")), "is damaged"),
        (lambda file: file.write_bytes(b""), "is damaged"),
        (lambda file: file.write_bytes(seal({"version": 2})), "of another version of fsd: its version is 2, expected 1"),
        (
            lambda file: file.write_bytes(seal(unseal(file.read_bytes(), "") | {"state": "odd"})),
            "state = 'odd': expected one of done, failed",
        ),
        (
            lambda file: file.write_bytes(seal(unseal(file.read_bytes(), "") | {"lines": {"0": [[1]]}})),
            "lines = .*: expected a table of lists",
        ),
        (lambda file: file.write_bytes(seal(unseal(file.read_bytes(), "") | {"run": "ab13" * 4})), "expected 'ab12ab12ab12ab12'"),
        (lambda file: file.write_bytes(seal(unseal(file.read_bytes(), "") | {"error": {}})), "error: code: is missing"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be read: Is a directory"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "cannot be read: it is not a regular file"),
    ],
)
def test_files_that_are_gone_or_damaged_are_one_line(kept: history.RunLog, home: Path, fsd: Any, change: Any, told: str) -> None:
    file = home / "runs" / f"{kept.run}.log"
    file.with_suffix(".json").write_bytes(b"{}")  # so that the run is known
    os.mkfifo(file.with_name("cd34" * 4 + ".log"))  # no run: to read it would wait for its writer
    os.mkfifo(file.with_name("ef56" * 4 + ".json"))
    change(file)
    with pytest.raises(InputError, match=told):
        history.read_log(kept.run, home)
    code, out, err = fsd("logs", kept.run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    states = {row["run"]: row["state"] for row in json.loads(fsd("runs", "--json")[1])["runs"]}
    assert states == {kept.run: "damaged", "ab13" * 4: "failed"}


def test_a_log_that_cannot_be_kept_costs_no_answer(start: Callable[..., Result], home: Path) -> None:
    home.mkdir()
    (home / "runs").write_bytes(b"")
    with pytest.warns(UserWarning, match="the run's log cannot be kept in") as warned:
        assert start().output.nnz
    assert len([each for each in warned if "cannot be kept" in str(each.message)]) == 2  # the record and the log
