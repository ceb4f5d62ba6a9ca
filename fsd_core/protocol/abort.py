"""Ends a failed run: writes its error into the object store (the object ``error``), and sends an abort message to every rank.

The functions try the second way even if the first one fails, because some processes read only the object and some only the message. The
object stays until the next run on the slot, so that a worker that starts late still finds it.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

from fsd_core.channel import ChannelConfig, News, NewsList, QueueChannel, RankIdentity, describe
from fsd_core.common.sealed import Damaged, seal, unseal
from fsd_core.driver import Code, Failure, Provider, Resources
from fsd_core.errors import FsdError, RunFailed
from fsd_core.protocol.runconfig import RunConfig
from fsd_core.protocol.spawn import LaunchPayload
from fsd_core.storage.keys import RunKeys
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store

__all__ = ["abort_peers", "end_run", "report_exit", "report_failure", "tell_peers"]

log = logging.getLogger(__name__)

REPORT_S = 10.0
REASON_CHARS = 1000  # of a death, in the news
# In the reason of a host or platform: another launch would end like it. A server says "Perhaps out of memory?" of any killed process.
OUT_OF_MEMORY = re.compile(r"(?<!perhaps out of )\bmemory\b", re.IGNORECASE)


def end_run(store: Store, keys: RunKeys, error: RunFailed, send_abort: Callable[[], None] | None) -> None:
    """Write ``error`` into the object store, unless the run has an error there already. Then call ``send_abort``, even if the write failed.

    Raises the error of the call, else the error of the write.
    """
    log.warning("ends the run: %s", error)
    try:
        store.create(keys.error, describe(error))
    finally:
        if send_abort is not None:
            send_abort()


def abort_peers(provider: Provider, resources: Resources, slot: int, me: RankIdentity, error: RunFailed, retry: Retry) -> None:
    """Send the abort to every rank of the run except ``me.rank`` (-1: to all ranks). Opens and closes its own connection."""
    with closing(provider.messages(resources, slot)) as messages, ThreadPoolExecutor(4) as pool:
        log.debug("sends the abort to all ranks")
        QueueChannel(messages, ChannelConfig(me, {}, retry, pool)).abort(error, retry)


def tell_peers(provider: Provider, resources: Resources, slot: int, me: RankIdentity, news: Iterable[News], retry: Retry) -> None:
    """Send copies of ``news`` to the queues of every rank of the run. Opens and closes its own connection."""
    with closing(provider.messages(resources, slot)) as messages, ThreadPoolExecutor(4) as pool:
        channel = QueueChannel(messages, ChannelConfig(me, {}, retry, pool))
        for each in news:
            channel.say(each, range(me.workers))
        channel.finish_sends()


def report_exit(
    payload: bytes,
    provider: Provider,
    reason: str,
    *,
    nonce: str | None = None,
    layer: int | None = None,
    resources: Resources | None = None,
    said: Sequence[Sequence[Any]] = (),
) -> bool:
    """Report to a run that one of its functions died, so that no other rank waits for that function.

    If the run replaces lost ranks, this adds an entry to its news, on which the client acts. Otherwise it ends the run.

    ``payload`` is the payload of the function's launch, ``nonce`` the text that `fsd_core.worker.handle` got (`None` if unknown), and
    ``layer`` (1-based) the layer in which the function died (`None` if unknown). ``resources`` are those of the app; a caller that is a
    function of the app can omit them. ``said``: the log lines of the function, each as `Line.packed`, if its host has them.

    If another function has claimed this incarnation of the rank, the run goes on. Returns `False` if no function has claimed it yet: then
    the run goes on too, because its launcher starts it again. Otherwise returns `True`.
    """
    fields = json.loads(payload)
    if "probe" in fields:
        return True
    resources = resources or provider.attach(str(fields["app"]))
    if "measure" in fields:  # its client alone waits for it
        with closing(provider.objects(resources)) as objects:
            store = Store(objects, Retry(time.time() + REPORT_S, Meter()))
            end_run(store, RunKeys(str(fields["run"])), RunFailed(Code.UNAVAILABLE, f"the function that measures: {reason}"), None)
        return True
    launch = LaunchPayload.unpack(fields)
    keys = RunKeys(launch.run)
    retry = Retry(min(launch.deadline, time.time() + REPORT_S), Meter())
    with closing(provider.objects(resources)) as objects:
        store = Store(objects, retry)
        claim = store.find(keys.claim(launch.rank, launch.incarnation))
        data = store.find(keys.config)
        if data is None or (claim is not None and not _may_be_claim_of(claim, nonce)):
            return True
        if claim is None:
            return False
        config = RunConfig.unpack(data)
        code = Code.TOO_LARGE if OUT_OF_MEMORY.search(reason) else Code.UNAVAILABLE
        error = RunFailed(code, reason, rank=launch.rank, layer=layer)
        if said:  # before the reason, which ends the run
            with suppress(FsdError):
                store.put(keys.log(launch.rank), seal({"log": list(said)}))

        if config.recovery and code is not Code.TOO_LARGE:  # another function would need as much memory
            died = News(kind="lost", rank=launch.rank, incarnation=launch.incarnation, layer=layer, reason=reason[:REASON_CHARS])
            NewsList(store, keys).add(died)
            return True

        def send_abort() -> None:
            me = config.member(launch.epoch, launch.rank, retry.deadline)
            abort_peers(provider, resources, launch.slot, me, error, retry)

        end_run(store, keys, error, send_abort if config.queued else None)
    return True


def report_failure(provider: Provider, resources: Resources, failure: Failure) -> None:
    """Call `report_exit` for a `Failure` that `InvokeDriver.failures` returned."""
    report_exit(failure.payload, provider, failure.reason, nonce=failure.nonce, resources=resources)


def _may_be_claim_of(claim: bytes, nonce: str | None) -> bool:
    """True if the function with this nonce may have made the claim."""
    try:
        return nonce is None or unseal(claim, "the claim").get("nonce") == nonce
    except Damaged:  # the owner is unknown: to end a run without need is better than to wait for a dead function
        return True
