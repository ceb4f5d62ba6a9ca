"""Tests the resources that a provisioner made: sends a message through each queue, and launches a function that writes an object."""

from __future__ import annotations

import json
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing

from fsd_core.driver import WORKER, Code, Launch, Message, MessageDriver, Provider, Resources
from fsd_core.errors import DriverError
from fsd_core.protocol.measuring import PROBE
from fsd_core.providers.requests import Requests
from fsd_core.storage.store import Store

__all__ = ["PROBE", "Pair", "probe_function", "probe_queues"]

_AGAIN_S = 60.0  # a launch that neither ran nor failed is repeated after this time
_READY_S = 180.0

Pair = tuple[int, int]  # slot, rank


def probe_queues(provider: Provider, resources: Resources, pairs: Iterable[Pair], requests: Requests) -> None:
    """Return once each queue of ``pairs`` has delivered a test message. Removes the messages.

    Raises `DriverError`, which names the queues that do not deliver.
    """
    ranks_of = defaultdict(set)
    for slot, rank in pairs:
        ranks_of[slot].add(rank)
    for slot, ranks in ranks_of.items():
        with closing(provider.messages(resources, slot)) as driver:
            _probe_slot(driver, slot, ranks, requests)


def _probe_slot(driver: MessageDriver, slot: int, missing: set[int], requests: Requests) -> None:
    body, limits, wait_s = PROBE + secrets.token_hex(8).encode(), driver.limits, 1.0
    batch = min(limits.batch_messages, limits.batch_bytes // (len(body) + limits.overhead_bytes))

    def arrived(rank: int) -> bool:
        what = f"probe of queue {slot}-{rank}"
        got = requests.repeat(what, lambda: driver.receive(rank, limits.receive_messages, min(wait_s, limits.wait_s)))
        tokens = [each.token for each in got if each.body.startswith(PROBE)]
        for at in range(0, len(tokens), limits.batch_messages):
            requests.retry.entries(driver, what, tokens[at : at + limits.batch_messages], lambda some: driver.ack(rank, some))
        return any(each.body == body for each in got)

    def publish(ranks: Sequence[int]) -> None:
        requests.retry.entries(driver, f"probe of slot {slot}", [Message(rank, body) for rank in ranks], driver.publish)

    def check() -> bool | None:
        nonlocal wait_s
        ranks, routes = sorted(missing), defaultdict(list)
        for rank in ranks:
            routes[driver.route(rank)].append(rank)
        requests.each(publish, [some[at : at + batch] for some in routes.values() for at in range(0, len(some), batch)])
        missing.difference_update(rank for rank, found in zip(ranks, requests.each(arrived, ranks), strict=True) if found)
        wait_s = min(5.0, 2 * wait_s)  # the next probe is sent only after this wait
        return None if missing else True

    requests.until(f"slot {slot}, ranks {', '.join(map(str, sorted(missing)))}: a message to each queue", check)


def probe_function(provider: Provider, resources: Resources, requests: Requests, where: str, patience_s: float | None = None) -> None:
    """Return once the function has run and written to the object store: so its code can be imported and its permissions are in force.

    ``where`` names the place where the platform shows why a function failed, for instance "log group NAME". ``patience_s``: the seconds
    that the permissions may need to come into force; `None` means 180. Raises `DriverError` if the function does not run.
    """
    key = f"probe/deploy-{secrets.token_hex(8)}"
    payload = json.dumps({"app": resources.app, "probe": {"key": key}}).encode()
    deadline = min(requests.retry.deadline, time.time() + (_READY_S if patience_s is None else patience_s))
    with closing(provider.invoker(resources)) as invoker, closing(provider.objects(resources)) as objects:
        store, wait = Store(objects, requests.retry), 0.0
        launch: Launch | None = None
        launched, reason = 0.0, ""
        while not any(name.startswith(f"{key}/ended-") for name in store.keys(f"{key}/")):
            requests.repeat("failures of the function", lambda: invoker.failures(lambda failed: failed == payload))  # `poll` may need them
            code = launch.poll() if launch else None
            reason = f" ({code.value})" if code else reason
            if time.time() >= deadline:
                text = f"app {resources.app!r}: the function was started and failed{reason}: {where} shows why"
                raise DriverError(Code.UNAVAILABLE, text) if requests.left() else requests.late(text)
            if launch is None or code or time.time() - launched >= _AGAIN_S:
                launch, launched = requests.repeat("launch of the function", lambda: invoker.invoke(WORKER, payload)), time.time()
            time.sleep(wait := min(1.0, 0.05 + 1.5 * wait))
        store.delete_prefix(f"{key}/")
