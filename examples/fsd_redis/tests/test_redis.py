"""What the suite does not know: whole runs, faults of Redis, bad input, and that nothing is sent twice."""

import ast
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tokenize
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import redis
import scipy.sparse as sp

from fsd_conformance import emulators
from fsd_core import Progress, run
from fsd_core.driver import Code, Message, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.model import radixnet
from fsd_core.model.inputs import open_inputs
from fsd_core.providers.environment import to_environment
from fsd_redis import PROVIDER, client, worker
from fsd_redis.harness import Here
from fsd_redis.invoke import APP, SECRET
from fsd_redis.settings import FUNCTIONS, PASSWORD, TOKEN, URL, WORKERS

pytestmark = pytest.mark.timeout(300)
SETTINGS = {"lease_s": 1.0}
MODEL, INPUTS = radixnet(1024, 12), "random:24:0.3:1"


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    with emulators.own(Here) as running:
        yield running


@pytest.fixture
def app(here: Here) -> Iterator[Resources]:
    provisioner = PROVIDER.provisioner(SETTINGS)
    yield provisioner.ensure("mine", 2, 1)
    provisioner.destroy("mine")


@pytest.fixture
def native(app: Resources) -> Iterator[redis.Redis]:
    with closing(PROVIDER.objects(app)) as driver:
        yield driver.native()


def command(*words: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FSD_REDIS_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "fsd_core.cli", *words],
        env=environment | {"FSD_HOME": str(home), "TMPDIR": str(home)} | variables,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_starts_its_servers_and_stops_them_and_gives_the_bits_of_local(tmp_path: Path) -> None:
    for provider in ("local", "redis"):
        words = ("radixnet:1024:12", INPUTS, "--tensor-parallel", "4", "--partition", "block", "--output", f"{provider}.npz")
        done = command("run", *words, "--provider", provider, "-v", home=tmp_path)
        assert done.returncode == 0, done.stderr
    one, other = (sp.load_npz(tmp_path / f"{provider}.npz") for provider in ("local", "redis"))
    assert one.nnz > 0
    assert all(getattr(one, part).tobytes() == getattr(other, part).tobytes() for part in ("data", "indices", "indptr"))
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            assert not os.readlink(process / "cwd").startswith(f"{tmp_path}/")


def test_a_killed_function_is_replaced_at_once(here: Here, tmp_path: Path) -> None:
    """The launcher gets the answer that the function died, and reports it to the run, which goes on."""
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.phase == "layers" and not killed:
            host = here.servers[1].process
            assert host is not None
            functions = [child for parent in children(host.pid) for child in children(parent)]
            killed.append(max(functions))
            os.kill(killed[0], signal.SIGKILL)

    before = time.monotonic()
    result = run(MODEL, INPUTS, provider="redis", channel="queue", workers=3, partition="block", settings=SETTINGS, home=tmp_path,
                 app="kill", faults="delay=1s,seed=1", progress=kill)  # fmt: skip
    assert killed
    assert ["killed by signal 9" in each["reason"] for each in result.recovered] == [True]
    assert time.monotonic() - before < 60
    PROVIDER.provisioner(SETTINGS).destroy("kill")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_function_that_dies_is_reported_by_its_launcher(app: Resources) -> None:
    payload = json.dumps({"app": "mine", "probe": {"key": "probe/p", "exit": 139}}).encode()
    with closing(PROVIDER.invoker(app)) as invoker:
        launch = invoker.invoke("worker", payload)
        launch.ended.wait(60)
        assert launch.poll() is Code.UNAVAILABLE
        taken = invoker.failures(lambda found: found == payload).taken
        assert len(taken) == 1
        assert "exit code 139" in taken[0].reason


def test_a_function_that_fails_before_its_handler_is_reported(app: Resources) -> None:
    """The system does not accept its memory limit."""
    gone = Resources("mine", 1, 1, {**app.names, "memory_mb": str(1 << 60)})
    with closing(PROVIDER.invoker(gone)) as invoker:
        launch = invoker.invoke("worker", b"{}")
        launch.ended.wait(60)
        assert launch.poll() is Code.UNAVAILABLE
        (failure,) = invoker.failures(lambda found: found == b"{}").taken
        assert f"exit code {os.EX_SOFTWARE}" in failure.reason


@pytest.mark.parametrize("length", [-1, FUNCTIONS.payload_bytes + 1, "some", None])
def test_a_worker_host_reads_no_payload_without_a_length_in_its_limit(app: Resources, length: object) -> None:
    """The host answers at once: the client sends no body and keeps the connection open."""
    asked = HTTPConnection(app.names["workers"].removeprefix("http://"), timeout=60)
    asked.putrequest("POST", "/launch")
    for header, value in ((APP, to_environment(app)), (SECRET, os.environ[TOKEN]), ("Content-Length", length)):
        if value is not None:
            asked.putheader(header, value)
    asked.endheaders()
    with closing(asked), asked.getresponse() as answer:
        assert answer.status == 400
        assert b"expected a payload" in answer.read()


def test_a_worker_host_closes_an_idle_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker._Handler.timeout == 30
    monkeypatch.setattr(worker._Handler, "timeout", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), worker._Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as idle:
            assert idle.recv(1) == b""
        thread.join()


def test_an_acknowledgement_after_the_next_delivery_removes_nothing(app: Resources) -> None:
    with closing(PROVIDER.messages(app, 0)) as queues:
        queues.publish([Message(0, b"x")])
        (first,) = queues.receive(0, 10, 5.0)
        (second,) = queues.receive(0, 10, 10.0)  # its block ends each eighth of a lease, so it sees the end of the lease
        assert (first.body, second.body) == (b"x", b"x")
        assert first.token != second.token
        assert queues.ack(0, [first.token]) == []
        (third,) = queues.receive(0, 10, 10.0)
        assert queues.ack(0, [third.token]) == []
        assert queues.receive(0, 10, 2.0) == []


def test_no_request_is_sent_twice(app: Resources) -> None:
    """A server that closes every connection after the first request of a driver."""
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(1 << 16):
                    if any(word in data for word in (b"XREADGROUP", b"EVAL")):
                        asked.append(data)
                        break
                    connection.sendall(b"+OK\r\n" * max(1, data.count(b"*")))  # to the hello of the client

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    with closing(listener):
        gone = Resources("mine", 1, 1, {**app.names, "url": f"redis://127.0.0.1:{listener.getsockname()[1]}/0"})
        with closing(PROVIDER.messages(gone, 0)) as queues, closing(PROVIDER.objects(gone)) as objects:
            for driver, request in ((queues, lambda: queues.receive(0, 1, 0.0)), (objects, lambda: objects.get("key"))):
                asked.clear()
                with pytest.raises(redis.RedisError) as caught:
                    request()
                assert driver.classify(caught.value) is Code.UNAVAILABLE
                assert len(asked) == 1


def test_a_connection_that_was_closed_while_idle_costs_no_error(
    app: Resources, native: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "IDLE_S", 1e-9)
    with closing(PROVIDER.objects(app)) as objects:
        objects.put("key", b"x")
        assert native.client_kill_filter(_type="normal", skipme=True) >= 1
        assert objects.get("key") == b"x"


def test_memory_that_is_full_is_an_error_and_says_what_to_do(app: Resources, native: redis.Redis) -> None:
    with closing(PROVIDER.messages(app, 0)) as queues, closing(PROVIDER.objects(app)) as objects:
        native.config_set("maxmemory", 1)
        try:
            for driver, request in (
                (queues, lambda: queues.publish([Message(0, b"x"), Message(1, b"y")])),
                (objects, lambda: objects.put("key", b"x")),
            ):
                with pytest.raises(redis.exceptions.OutOfMemoryError) as caught:
                    request()
                assert driver.classify(caught.value) is Code.TOO_LARGE
                assert "raise its maxmemory" in str(PROVIDER.advice(f"OutOfMemoryError: {caught.value}"))
        finally:
            native.config_set("maxmemory", 0)
        assert [queues.receive(rank, 1, 0.0) for rank in (0, 1)] == [[], []]


def test_a_redis_that_may_drop_messages_is_refused(app: Resources, native: redis.Redis) -> None:
    native.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(InputError, match="maxmemory-policy allkeys-lru: expected noeviction"):
            PROVIDER.provisioner(SETTINGS).ensure("mine", 2, 1)
    finally:
        native.config_set("maxmemory-policy", "noeviction")


def wrong_password(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv(PASSWORD, "wrong")
    return {}


def no_password(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.delenv(PASSWORD)
    return {}


def wrong_token(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv(TOKEN, "wrong")
    return {}


def no_workers(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.delenv(WORKERS)
    return {}


def password_in_the_variable(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv(URL, "redis://:secret@host:1/0")
    return {}


def password_in_the_query(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv(URL, "redis://host:1/0?password=secret")
    return {}


def password_of_a_host(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setenv(WORKERS, "http://host:1,http://me:secret@host:1")
    return {}


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (wrong_password, InputError, f"set {PASSWORD} to the password of Redis"),
        (no_password, InputError, f"set {PASSWORD} to the password of Redis"),
        (wrong_token, InputError, f"set {TOKEN} to the secret of the host"),
        (no_workers, InputError, r"\[redis\] workers: expected the addresses of worker hosts"),
        (lambda _: {"url": "redis://127.0.0.1:9/0"}, DriverError, "Redis at redis://127.0.0.1:9/0: .*start Redis"),
        (lambda _: {"workers": ["http://127.0.0.1:9"]}, InputError, "worker host http://127.0.0.1:9: .*start fsd-redis-worker there"),
        (lambda _: {"url": "redis://:secret@host:1/0"}, InputError, f"a password belongs into {PASSWORD}"),
        (lambda _: {"url": "redis://host:1/0?password=secret"}, InputError, f"a password belongs into {PASSWORD}"),
        (password_in_the_variable, InputError, f"{URL} = .*a password belongs into {PASSWORD}"),
        (password_in_the_query, InputError, f"{URL} = .*a password belongs into {PASSWORD}"),
        (password_of_a_host, InputError, f"{WORKERS} = .*expected a list of addresses"),
        (lambda _: {"url": "http://host"}, InputError, "expected redis://HOST:PORT/DB"),
        (lambda _: {"workers": "http://host"}, InputError, "expected a list of addresses"),
        (lambda _: {"lease": 1}, InputError, "lease: unknown key"),
        (lambda _: {"memory_mb": 1}, InputError, "memory_mb"),
    ],
)
def test_bad_input(
    here: Here, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], dict[str, object]], kind: type[Exception], said: str
) -> None:
    monkeypatch.setattr("fsd_core.providers.requests._FIRST_S", 0.1)  # how long a server that cannot be reached is asked again
    table = change(monkeypatch)
    with pytest.raises(kind, match=said) as caught:
        PROVIDER.provisioner(table).ensure("bad", 1, 1)
    assert "\n" not in str(caught.value)
    assert ":secret@" not in str(caught.value)
    assert "=secret" not in str(caught.value)


def test_without_redis_server_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(URL, raising=False)
    with pytest.raises(InputError, match=r"redis-server is not found: expected it on PATH"):
        PROVIDER.provisioner({})


def test_a_worker_host_wants_a_token_and_an_address() -> None:
    def host(*words: str, **variables: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != TOKEN} | variables
        done = subprocess.run(
            [sys.executable, "-m", "fsd_redis.worker", *words], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        return done.stderr.splitlines()[-1]

    assert "expected a secret of at least 16 characters" in host()
    assert "expected HOST:PORT of this machine" in host("--listen", "192.0.2.1:70", **{TOKEN: "t" * 16})


def test_a_host_that_is_stopped_ends_its_functions(here: Here, tmp_path: Path) -> None:
    from fsd_redis.harness import WorkerHost

    server = WorkerHost(tmp_path, None, lambda: here.env)
    server.start()
    try:
        provisioner = PROVIDER.provisioner({**SETTINGS, "workers": [server.url]})
        app = provisioner.ensure("stopped", 1, 1)
        with closing(PROVIDER.invoker(app)) as invoker, closing(PROVIDER.objects(app)) as objects:
            payload = json.dumps({"app": "stopped", "probe": {"key": "probe/p", "sleep_s": 60}}).encode()
            launch = invoker.invoke("worker", payload)
            until = time.monotonic() + 60
            while not objects.list("probe/p/started").keys:
                assert time.monotonic() < until
                time.sleep(0.05)
            assert server.process is not None
            os.kill(server.process.pid, signal.SIGTERM)
            assert launch.ended.wait(60)
            assert launch.poll() is Code.UNAVAILABLE
            assert invoker.failures(lambda found: found == payload).taken
        provisioner.destroy("stopped")
    finally:
        server.stop()


def test_objects_in_a_bucket(tmp_path: Path) -> None:
    """A whole run whose objects are in an S3-compatible store."""
    moto = pytest.importorskip("fsd_conformance.emulators.moto")
    with emulators.own(moto.Moto), emulators.own(Here):
        settings = {**SETTINGS, "bucket": "fsd"}
        provisioner = PROVIDER.provisioner(settings)
        result = run(
            MODEL, INPUTS, provider="redis", channel="hybrid", workers=2, partition="block", settings=settings, home=tmp_path, app="s3"
        )
        here = run(
            MODEL, INPUTS, provider="local", channel="hybrid", workers=2, partition="block", settings={"root": str(tmp_path)}, app="s3"
        )
        assert np.array_equal(result.output.data, here.output.data)
        resources = provisioner.ensure("s3", 1, 1)
        assert resources.names["bucket"] == "fsd-s3"
        with closing(PROVIDER.objects(resources)) as objects:
            assert objects.list("").keys
            assert provisioner.destroy("s3")[0] == "bucket fsd-s3"
            with pytest.raises(Exception, match="NoSuchBucket") as caught:
                objects.list("")
            assert objects.classify(caught.value) is Code.NOT_FOUND
        assert not provisioner.destroy("s3")


def test_commands(here: Here, tmp_path: Path) -> None:
    variables = dict(here.env)
    done = command("doctor", "--json", home=tmp_path, **variables)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["provider redis"]["found"] == "fsd_redis.RedisProvider"
    words = ("radixnet:1024:12", INPUTS, "--providers", "local,redis", "--workers", "2", "--channels", "queue", "--repeat", "1")
    done = command("compare", *words, "--partition", "block", "--json", home=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["providers"]["redis"]["tariff"] == "redis"
    assert all(cell["runs"] for cell in found["cells"])
    assert open_inputs(INPUTS, 1024).shape[0] == found["about"]["samples"]
    done = command("conformance", "--provider", "redis", "-k", "TestProvision and ensure", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert URL not in done.stdout


def test_the_table_of_latencies_comes_with_the_package(monkeypatch, tmp_path):
    """`fsd measure --provider redis` made it; `--latency redis` and `fsd plan` find it by the entry point of the provider."""
    from fsd_core.latency import load, shipped_table

    monkeypatch.setenv("FSD_HOME", str(tmp_path))
    table = load("redis")
    assert table == shipped_table("redis")
    assert table.measured.provider == "redis"
    assert table.rows.keys() >= {"publish", "publish_batch", "deliver", "receive", "ack", "put", "get", "list", "connect", "start_cold"}
    assert all(row.kind == "measured" and row.source and row.as_of for row in table.rows.values())


def test_the_package_is_short() -> None:
    """Lines of code: without docstrings, comments and empty lines, and without the servers for tests."""
    count = 0
    for module in Path(client.__file__).parent.glob("*.py"):
        if module.name == "harness.py":
            continue
        text = module.read_text()
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docs = {line for node in nodes if ast.get_docstring(node) for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}
        tokens = [
            token
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.string.strip() and token.type != tokenize.COMMENT
        ]
        count += len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - docs)
    assert count <= 450
