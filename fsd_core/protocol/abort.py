"""How a run that fails is ended: the failure is written into the object store, and an abort is sent to every rank.

Both are tried, even where the first one fails: a reader may see only one of them. The written failure (the object ``error``) stays
until the next run on the slot, so that workers that look late still find it.
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

__all__ = ["abort_peers", "end_run", "report_exit", "report_failure"]

REPORT_S = 10.0


def end_run(store: Store, keys: RunKeys, error: RunFailed, send_abort: Callable[[], None] | None) -> None:
    """Write the failure, unless another failure is written already, then call ``send_abort``.

    Both are tried. Raises what the write or the call raised.
    """
    try:
        store.create(keys.error, describe(error))
    finally:
        if send_abort is not None:
            send_abort()


def abort_peers(provider: Provider, resources: Resources, slot: int, me: RankIdentity, error: RunFailed, retry: Retry) -> None:
    """Send the abort to every rank of the run except ``me.rank`` (-1: to all ranks), over a connection of its own."""
    with closing(provider.messages(resources, slot)) as messages, ThreadPoolExecutor(4) as pool:
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
    """Report to a run that one of its functions died, so that nobody waits for that function. ``payload`` is what launched it.

    ``nonce`` is the one that `fsd_core.worker.handle` got; ``layer`` (1-based) is where the function died, as far as known.
    ``resources`` are needed where the caller is no function of the app. A function that lost the claim of its rank to another function
    is not reported. Returns `False` where nobody has claimed the rank, since its launcher starts it again, else `True`.
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
        if data is None or (claim is not None and not _may_be_claim_of(claim, nonce)):
            return True
        if claim is None:
            return False
        config = RunConfig.unpack(data)
        error = RunFailed(Code.UNAVAILABLE, reason, rank=launch.rank, layer=layer)

        def send_abort() -> None:
            me = RankIdentity(launch.run, launch.epoch, launch.rank, config.workers, retry.deadline)
            abort_peers(provider, resources, launch.slot, me, error, retry)

        end_run(store, keys, error, send_abort if config.queued else None)
    return True


def report_failure(provider: Provider, resources: Resources, failure: Failure) -> None:
    """Report a `Failure` that `InvokeDriver.failures` returned, by `report_exit`."""
    report_exit(failure.payload, provider, failure.reason, nonce=failure.nonce, resources=resources)


def _may_be_claim_of(claim: bytes, nonce: str | None) -> bool:
    """Whether a claim may be that of the function with this nonce."""
    try:
        return nonce is None or unseal(claim, "the claim").get("nonce") == nonce
    except Damaged:  # nobody knows whose claim it is, and a run that waits for a dead function is worse than a run that ends
        return True
