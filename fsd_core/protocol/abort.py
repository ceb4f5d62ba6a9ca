"""How a run ends early: its reason is written where everybody looks, and an abort is sent to every rank.

A failure is told when both were done. Each is tried even if the other cannot be: either may be the one that is left. The reason
(the object ``error``) stays until the slot's next run, so that workers who look late still find it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from fsd_core.channel import ChannelConfig, QueueChannel, RankIdentity, describe
from fsd_core.common.sealed import Damaged, unseal
from fsd_core.driver import Code, Failure, Provider, Resources
from fsd_core.errors import RunFailed
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["abort_peers", "report_exit", "report_failure", "tell"]

REPORT_S = 10.0


def tell(store: Store, keys: RunKeys, error: RunFailed, send: Callable[[], None] | None) -> None:
    """Write the reason, unless another came first, then ``send`` the abort. Raises what either raised, after both were tried."""
    try:
        store.create(keys.error, describe(error))
    finally:
        if send is not None:
            send()


def abort_peers(provider: Provider, resources: Resources, launch: LaunchPayload, workers: int, error: RunFailed, retry: Retry) -> None:
    """Send the abort to every rank but the launch's own (-1: to all), over a connection of its own."""
    me = RankIdentity(launch.run, launch.epoch, launch.rank, workers, retry.deadline)
    with closing(provider.messages(resources, launch.slot)) as messages, ThreadPoolExecutor(4) as pool:
        QueueChannel(messages, ChannelConfig(me, {}, retry, pool)).abort(error, retry)


def report_exit(
    payload: bytes,
    provider: Provider,
    reason: str,
    *,
    nonce: str | None = None,
    layer: int | None = None,
    resources: Resources | None = None,
) -> bool:
    """Tell the run of a launch that its function died, so that nobody waits for it. ``resources``: where this is no function.

    Nothing is reported of a function that was beaten to the claim by another (``nonce`` must be what `fsd_core.worker.handle` was
    given), nor of one that had not claimed its rank, since it is launched again: then the answer is `False`.
    """
    fields = json.loads(payload)
    if "probe" in fields:
        return True
    launch = LaunchPayload.unpack(fields)
    resources = resources or provider.attach(launch.app)
    keys = RunKeys(launch.run)
    retry = Retry(min(launch.deadline, time.time() + REPORT_S), Meter())
    with closing(provider.objects(resources)) as objects:
        store = Store(objects, retry)
        claim = store.find(keys.claim(launch.rank))
        data = store.find(keys.config)
        if data is None or (claim is not None and not _claimed(claim, nonce)):
            return True
        if claim is None:
            return False
        config = RunConfig.unpack(data)
        error = RunFailed(Code.UNAVAILABLE, reason, rank=launch.rank, layer=layer)

        def send() -> None:
            abort_peers(provider, resources, launch, config.workers, error, retry)

        tell(store, keys, error, send if config.queued else None)
    return True


def report_failure(provider: Provider, resources: Resources, failure: Failure) -> None:
    """`report_exit` of what `InvokeDriver.failures` brought."""
    report_exit(failure.payload, provider, failure.reason, nonce=failure.nonce, resources=resources)


def _claimed(claim: bytes, nonce: str | None) -> bool:
    """Whether a claim may be of the function with this nonce."""
    try:
        return nonce is None or unseal(claim, "the claim").get("nonce") == nonce
    except Damaged:  # it cannot be told whose it is, and a run that waits for a dead function is worse than one that ends
        return True
