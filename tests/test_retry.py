"""Retries: what ends a call other than success, and the notices for the user."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from fsd_core.driver import Code, Rejected
from fsd_core.errors import DriverError
from fsd_core.storage import retry as retrying
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from waiting import until


class Service:
    """Refuses with ``code`` every request that is not let through."""

    service = "Some Service"

    def __init__(self, code: Code = Code.UNAVAILABLE) -> None:
        self.code = code

    def classify(self, error: BaseException) -> Code:
        return self.code

    def refuse(self) -> None:
        raise ConnectionError("nobody there")


def retry(**options: object) -> Retry:
    return Retry(time.time() + 600, Meter(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", ["outage_s", "stall_s"])
def test_an_outage_ends_the_call_and_names_the_service(limit: str) -> None:
    some, driver = retry(), Service()
    setattr(some, limit, 0.3 if limit == "outage_s" else lambda: 0.3)
    with pytest.raises(DriverError, match=r"Some Service unreachable for \d+ s; ask: ConnectionError: nobody there") as caught:
        some.call(driver, "ask", driver.refuse)
    assert caught.value.code is Code.UNAVAILABLE
    assert some.call(driver, "ask", lambda: "an answer") == "an answer"


def test_an_error_is_one_line_whatever_the_sdk_says() -> None:
    """The error text of Blob Storage has the XML of the answer in further lines."""

    class Says(Exception):
        pass

    def says() -> None:
        raise Says("no such blob.\nRequestId:1\r\n<Error>\n  <Code>BlobNotFound</Code>\n</Error>\n")

    with pytest.raises(DriverError) as caught:
        retry().call(Service(Code.NOT_FOUND), "get it", says)
    assert str(caught.value) == "NOT_FOUND: get it: Says: no such blob. RequestId:1 <Error> <Code>BlobNotFound</Code> </Error>"


def test_an_unreachable_service_is_known_while_a_call_goes_on() -> None:
    some, driver, looked = retry(outage_s=60.0), Service(), []

    def request() -> None:
        looked.append(some.unreachable())
        if len(looked) < 3:
            driver.refuse()

    some.call(driver, "ask", request)
    assert looked[0] is None  # it may be a long poll
    assert [each and each[0] for each in looked[1:]] == ["Some Service"] * 2
    assert some.unreachable() is None


def test_a_service_that_throttles_is_reachable() -> None:
    some, driver, asked = retry(outage_s=0.0), Service(Code.THROTTLED), count()

    def request() -> None:
        if next(asked) < 4:
            driver.refuse()

    some.call(driver, "ask", request)
    assert some.unreachable() is None


def test_a_call_that_fails_for_too_long_ends_though_others_succeed() -> None:
    some, driver, over = retry(outage_s=0.5), Service(), threading.Event()

    def others() -> None:
        while not over.is_set():
            some.call(driver, "other", lambda: None)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(others)
        with pytest.raises(DriverError, match="unreachable"):
            some.call(driver, "ask", driver.refuse)
        over.set()


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
def test_the_user_gets_notices_of_an_unreachable_service(monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    monkeypatch.setattr(retrying, "NOTICE_S", 0.1)
    lines: list[str] = []
    some, driver, over = retry(outage_s=60.0), Service(), threading.Event()

    def request() -> None:
        if hangs:
            until(lambda: len(lines) >= 3)
        elif len(lines) < 3:
            driver.refuse()

    with ThreadPoolExecutor(1) as pool:
        reporting = pool.submit(some.report, lines.append, over)
        some.call(driver, "ask", request)
        over.set()
        reporting.result(60)
    assert all(re.fullmatch(r"Some Service unreachable for \d+ s, retrying", line) for line in lines)
    assert some.unreachable(hanging=True) is None


def test_an_outage_counts_from_the_start_of_the_call() -> None:
    """A request without an answer fails late. The time until then is part of the outage, unless the service answered other calls."""
    some, driver = retry(outage_s=0.5), Service()

    def hang() -> None:
        time.sleep(0.6)
        driver.refuse()

    with pytest.raises(DriverError, match="Some Service unreachable for 1 s"):
        some.call(driver, "ask", hang)
    some.outage_s, some.stall_s, asked = 1e9, lambda: 0.5, count()

    def answered_meanwhile() -> None:
        if next(asked) == 0:
            time.sleep(0.6)
            some.call(driver, "other", lambda: None)
            driver.refuse()

    some.call(driver, "ask", answered_meanwhile)


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.THROTTLED])
def test_another_thread_can_end_the_wait_for_a_retry(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_CAP_S", 1e6)
    monkeypatch.setattr(retrying, "LAST_CAP_S", 1e6)  # nobody would see the end of such a wait
    some, driver, asked = Retry(time.time() + 1e9, Meter()), Service(code), threading.Event()

    def request() -> None:
        asked.set()
        driver.refuse()

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(some.call, driver, "ask", request)
        assert asked.wait(60)
        some.stop.set()
        until(call.done)
        assert isinstance(call.exception(), DriverError)


@pytest.mark.parametrize("make", [lambda: Retry(time.time() - 1, Meter()), lambda: Retry(time.time() + 60, Meter(), budget=0)])
def test_without_time_or_budget_a_request_is_still_made_once(make: Callable[[], Retry]) -> None:
    driver, asked = Service(), count()
    assert make().call(driver, "ask", lambda: "an answer") == "an answer"

    def request() -> None:
        assert next(asked) == 0
        driver.refuse()

    with pytest.raises(DriverError, match="ask: ConnectionError"):
        make().call(driver, "ask", request)


def test_only_entries_with_transient_refusals_are_sent_again() -> None:
    """A refusal with another code ends the request at once."""
    sent: list[list[str]] = []

    def request(items: Sequence[str]) -> list[Rejected]:
        sent.append(list(items))
        return [Rejected(1, Code.THROTTLED, "busy")] if len(sent) == 1 else [Rejected(0, Code.DENIED, "no")]

    with pytest.raises(DriverError, match=r"^DENIED: send: no$"):
        retry().entries(Service(), "send", ["a", "b", "c"], request)
    assert sent == [["a", "b", "c"], ["b"]]
