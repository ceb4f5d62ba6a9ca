"""Cases of `fsd_core.driver.Provisioner`, and of `Provider` as a whole."""

from __future__ import annotations

import http.server
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fsd_conformance.base import Cases, Deployed, Driver, eventually, new_app, new_retry
from fsd_core.driver import Code, Message, Resources
from fsd_core.errors import InputError
from fsd_core.storage.store import Store

__all__ = ["ProvisionCases"]

_IMPORT = """
import sys
import fsd_core.driver
before = set(sys.modules)
import {package}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(new - set(sys.stdlib_module_names) - {{{package!r}, "fsd_core"}}))
"""


class ProvisionCases(Cases):
    """``ensure`` and ``destroy`` are idempotent, and every resource carries the app's name."""

    @pytest.fixture
    def app(self, deployed: Deployed) -> Iterator[str]:
        """The name of a new app, which is destroyed after the case."""
        app = new_app()
        yield app
        deployed.provisioner.destroy(app)

    def test_ensure_twice(self, deployed: Deployed, app: str) -> None:
        """A second ``ensure`` changes nothing: names, objects and messages remain. The values of ``names`` are strings."""
        first = deployed.provisioner.ensure(app, 2, 1)
        store, body = _store(deployed, first), secrets.token_bytes(20).hex().encode()
        store.put("kept", body)
        _send(deployed, first, 0, 1, body)
        again = deployed.provider.provisioner(deployed.settings).ensure(app, 2, 1)
        assert again == first
        assert deployed.provisioner.find(app) == first
        assert (first.app, first.ranks, first.slots) == (app, 2, 1)
        assert all(isinstance(part, str) for item in first.names.items() for part in item)
        assert _store(deployed, again).get("kept") == body
        _arrives(deployed, again, 0, 1, body)

    def test_ensure_grows(self, deployed: Deployed, app: str) -> None:
        """A larger ensure adds ranks and slots; a smaller one removes nothing."""
        small = deployed.provisioner.ensure(app, 1, 1)
        _store(deployed, small).put("kept", b"x")
        _send(deployed, small, 0, 0, b"sent before")
        large = deployed.provisioner.ensure(app, 3, 2)
        assert (large.ranks, large.slots) == (3, 2)
        _arrives(deployed, large, 0, 0, b"sent before")
        _send(deployed, large, 1, 2, b"grown")
        deployed.provisioner.ensure(app, 1, 1)
        _arrives(deployed, large, 1, 2, b"grown")
        assert _store(deployed, large).get("kept") == b"x"

    def test_destroy(self, deployed: Deployed, app: str) -> None:
        """``destroy`` returns what it removed; later requests give NOT_FOUND; a second ``destroy`` removes nothing.

        A new app of the same name is empty.
        """
        resources = deployed.provisioner.ensure(app, 1, 1)
        messages, objects = deployed.provider.messages(resources, 0), deployed.provider.objects(resources)
        Store(objects, new_retry()).put("left/over", b"x")
        _send(deployed, resources, 0, 0, b"left over")
        removed = deployed.provisioner.destroy(app)
        assert removed
        assert all(isinstance(line, str) for line in removed)
        assert not deployed.provisioner.destroy(app)
        assert deployed.provisioner.find(app) is None
        _gone(messages, lambda: messages.receive(0, 1, 0.0))
        _gone(messages, lambda: messages.publish([Message(0, b"late")]))
        _gone(objects, lambda: objects.get("left/over"))
        _gone(objects, lambda: objects.put("late", b"x"))
        _gone(objects, lambda: objects.list(""))
        messages.close()
        objects.close()
        anew = deployed.provisioner.ensure(app, 1, 1)
        assert list(_store(deployed, anew).keys("")) == []
        driver = deployed.provider.messages(anew, 0)
        assert not new_retry().call(driver, "receive", lambda: driver.receive(0, 1, 1.0))
        driver.close()

    def test_destroy_of_nothing(self, deployed: Deployed) -> None:
        """Destroy of an app that never existed removes nothing, without an error."""
        assert not deployed.provisioner.destroy(new_app())

    def test_apps_are_apart(self, deployed: Deployed, app: str) -> None:
        """An app sees no objects or messages of another; destroy of one leaves the other unchanged."""
        other = new_app()
        mine, theirs = deployed.provisioner.ensure(app, 1, 1), deployed.provisioner.ensure(other, 1, 1)
        try:
            for resources, body in ((mine, b"mine"), (theirs, b"theirs")):
                _store(deployed, resources).put("same/key", body)
                _send(deployed, resources, 0, 0, body)
            assert list(_store(deployed, mine).keys("")) == ["same/key"]
            assert _store(deployed, theirs).get("same/key") == b"theirs"
            assert _arrives(deployed, theirs, 0, 0, b"theirs") == {b"theirs"}
        finally:
            assert deployed.provisioner.destroy(other)
        assert _store(deployed, mine).get("same/key") == b"mine"
        assert _arrives(deployed, mine, 0, 0, b"mine") == {b"mine"}

    def test_import_is_light(self) -> None:
        """Importing a provider's package must import only the standard library and fsd_core, and no SDK."""
        package = type(self.harness.provider()).__module__.partition(".")[0]
        done = subprocess.run([sys.executable, "-c", _IMPORT.format(package=package)], capture_output=True, text=True, check=True)
        assert done.stdout.split() == []

    def test_attach_needs_a_function(self, deployed: Deployed) -> None:
        """``attach`` raises `InputError` in a process that is not a function of the app."""
        with pytest.raises(Exception, match=deployed.app):
            deployed.provider.attach(deployed.app)

    def test_stand_in_is_a_host(self, deployed: Deployed) -> None:
        """``stand_in`` is an emulator's host, or host and port, without the rest of its address; None for the cloud itself."""
        where = deployed.provider.stand_in()
        assert where is None or re.fullmatch(r"[\w.:-]+", where)

    def test_ranks_are_admitted(self, deployed: Deployed) -> None:
        """``admit`` accepts one worker, and as many workers as the app has ranks; it refuses with an error of one line."""
        for workers in (deployed.resources.ranks, 1):
            deployed.provider.admit(deployed.resources, workers)
        refused = []
        try:
            deployed.provider.admit(deployed.resources, 10**6)
        except InputError as error:
            refused.append(str(error))
        assert not any("\n" in line for line in refused)

    def test_no_driver_retries(self) -> None:
        """A method must raise the SDK's own error and must not retry: a service that answers 503 gets one request."""
        with _broken() as (url, asked):
            messages, objects = self.harness.messages_at(url), self.harness.objects_at(url)
            if messages is None and objects is None:
                pytest.skip("the harness has no driver for a given address (Harness.messages_at, objects_at)")
            if messages is not None:
                code = _code(messages, lambda: messages.receive(0, 1, 0.0))
                assert code in (Code.UNAVAILABLE, Code.THROTTLED), f"classify gives {code} for a service that is not available"
                assert len(asked) == 1, f"one call of the driver made {len(asked)} requests: switch off the retries of the SDK"
                messages.close()
            asked.clear()
            if objects is not None:
                code = _code(objects, lambda: objects.get("key"))
                assert code in (Code.UNAVAILABLE, Code.THROTTLED), f"classify gives {code} for a service that is not available"
                assert len(asked) == 1, f"one call of the driver made {len(asked)} requests: switch off the retries of the SDK"
                objects.close()

    def test_gaps_say_why(self) -> None:
        """The harness gives for each gap (a case that it skips) a reason with a link."""
        for case, reason in self.harness.gaps.items():
            assert case.startswith("test_"), case
            assert "://" in reason, f"{case}: {reason!r} has no link"


def _store(deployed: Deployed, resources: Resources) -> Store:
    return Store(deployed.provider.objects(resources), new_retry())


def _send(deployed: Deployed, resources: Resources, slot: int, rank: int, body: bytes) -> None:
    driver = deployed.provider.messages(resources, slot)
    new_retry().entries(driver, "publish", [Message(rank, body)], driver.publish)
    driver.close()


def _arrives(deployed: Deployed, resources: Resources, slot: int, rank: int, body: bytes) -> set[bytes]:
    """Wait for ``body`` and acknowledge it; returns all bodies that came."""
    driver, got, retry = deployed.provider.messages(resources, slot), set[bytes](), new_retry()

    def there() -> bool:
        deliveries = retry.call(driver, "receive", lambda: driver.receive(rank, 1, 1.0))
        if deliveries:
            retry.entries(driver, "ack", [each.token for each in deliveries], lambda tokens: driver.ack(rank, tokens))
        got.update(each.body for each in deliveries)
        return body in got

    eventually(f"{body!r} in the queue of rank {rank}", 60, there)
    driver.close()
    return got


def _code(driver: Driver, request: Callable[[], object]) -> Code | None:
    """The code of the error that a request raises, or None."""
    try:
        request()
    except Exception as error:
        return driver.classify(error)
    return None


def _gone(driver: Driver, request: Callable[[], object]) -> None:
    eventually("NOT_FOUND after destroy", 120, lambda: _code(driver, request) is Code.NOT_FOUND)


@contextmanager
def _broken() -> Iterator[tuple[str, list[str]]]:
    """A service that answers every HTTP request with 503: its address, and the list of requests.

    It closes a connection on which the first line is not HTTP, for instance that of Redis: such a connection is one request.
    """
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        raw_requestline: bytes  # the first line of a request

        def parse_request(self) -> bool:
            if re.search(rb" HTTP/[0-9.]+\r?\n$", self.raw_requestline):
                return super().parse_request()
            asked.append(repr(self.raw_requestline[:80]))
            self.close_connection = True
            return False

        def _answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_error(503)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
