"""Writes the traces of a run at its end, also if it failed: its entry in the audit log of its app, its log and its record on this machine.

The client writes the entry after the answer and after the clean-up, so that the entry does not delay the answer. If it cannot write the
entry, the run keeps its answer: the user gets a warning, and the record says why.
"""

from __future__ import annotations

import getpass
import hashlib
import platform
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from fsd_core.client import history
from fsd_core.client.marks import Marks, kept_s
from fsd_core.client.result import Result, keep, plain, warn
from fsd_core.common.crew import begin
from fsd_core.common.interrupt import remaining
from fsd_core.common.logs import masked
from fsd_core.cost import tariff_of_run
from fsd_core.driver import ObjectDriver, Resources
from fsd_core.storage import ledger
from fsd_core.storage.meter import Meter
from fsd_core.storage.retry import Retry
from fsd_core.storage.store import Store
from fsd_core.versions import versions
from fsd_core.wrappers.metered import MeteredObjects

if TYPE_CHECKING:
    from fsd_core.client.job import Job

__all__ = ["ENTRY_VERSION", "Trail"]

ENTRY_VERSION = 1
DONE_S, FAILED_S, INTERRUPTED_S = 20.0, 5.0, 0.6  # how long the client waits for the entry; see `fsd_core.client.cleanup`
CALLER_S = {"done": 5.0, "failed": 2.0, "interrupted": 0.3}


class Trail:
    """Writes the traces of one run.

    ``objects``: the driver of the app's store, without injected faults and delays. ``lines``: the log lines of each rank, by rank.
    """

    def __init__(self, job: Job, resources: Resources, objects: ObjectDriver, run: str) -> None:
        self.lines: dict[int, list[Any]] = {}
        self._job = job
        self._resources = resources
        self._objects = objects
        self._run = run

    def done(self, result: Result, batches: list[int]) -> Result:
        """Write the traces of a run with an answer. Returns the result with `Result.audit` set.

        ``batches``: the number of samples of each micro-batch. Never raises, so that the answer is not lost.
        """
        job, result = self._job, self._audited(result)
        about = {"engine": job.work.engine, "objective": job.objective, "seed": job.seed, "faults": job.faults, "batches": batches}
        keep(result, job.home, about | {"model": job.work.digest, "note": job.note, "began": job.began})
        self._log(None, result.audit)
        return result

    def failed(self, error: BaseException, meter: Mapping[str, int]) -> None:
        """Write the traces of a run that ``error`` ended. ``meter``: the counts of the client's requests."""
        audit = None
        if self._job.audit_log:
            interrupted = not isinstance(error, Exception)
            outcome, within_s = ("interrupted", INTERRUPTED_S) if interrupted else ("failed", FAILED_S)
            audit = self._write(lambda: self._entry(outcome, meter, error), within_s, Meter())
            if "error" in audit:
                error.add_note(f"this run has no entry in the audit log: {audit['error']}")
        self._log(error, audit)

    def _audited(self, result: Result) -> Result:
        if not self._job.audit_log:
            return result
        meter = Meter()
        audit = self._write(lambda: self._finished(result), DONE_S, meter)
        if "error" in audit:
            warn(f"the answer is complete, but the run has no entry in the audit log: {audit['error']}")
        counts = meter.snapshot()
        return attrs.evolve(result, audit=audit, meter={name: count + counts[name] for name, count in result.meter.items()})

    def _log(self, error: BaseException | None, audit: Mapping[str, Any] | None) -> None:
        job = self._job
        made = history.made(
            self._run,
            job.began,
            error,
            self.lines,
            model=job.note.get("model") or job.work.digest,
            provider=job.provider.name,
            stand_in=job.stand_in,
            workers=job.workers,
            audit=audit,
        )
        history.keep(made, job.home)

    def _write(self, make: Callable[[], Mapping[str, Any]], seconds: float, meter: Meter) -> dict[str, Any]:
        """Append an entry. Returns its number and digest, or the error, and the seconds that it took."""
        began = time.monotonic()
        found = _at_most(seconds, lambda: self._append(make(), seconds, meter))
        return found | {"seconds": time.monotonic() - began}

    def _append(self, entry: Mapping[str, Any], seconds: float, meter: Meter) -> dict[str, Any]:
        store = Store(MeteredObjects(self._objects, meter), Retry(time.time() + seconds, meter))
        marks = Marks.of(self._job.provider, self._resources, self._job.home)
        known = marks.newest()
        mark, intact = ledger.append(store, entry, known)
        if known and not intact and known.at >= time.time() - kept_s(self._resources):  # an older one may be gone
            where = f"the audit log of app {self._resources.app}"
            warn(f"{where} has lost entry {known.number}, which this client wrote: see fsd audit log --verify")
        try:
            marks.add(mark)
        except OSError as error:
            warn(f"the mark of entry {mark.number} of the audit log cannot be written to {marks.file}: {error.strerror or error}")
        return {"entry": mark.number, "digest": mark.digest}

    def _entry(self, outcome: str, meter: Mapping[str, int], error: BaseException | None = None) -> dict[str, Any]:
        """The fields of every entry. They hold no secret: errors and notes may name paths, but credentials are masked."""
        job, names = self._job, self._resources.names
        return {
            "version": ENTRY_VERSION,
            "run": self._run,
            "outcome": outcome,
            "error": history.failure(error),
            "caller": {"user": _user(), "machine": plain(platform.node()), "identity": self._identity(CALLER_S[outcome])},
            "began": job.began,
            "seconds": max(0.0, time.time() - job.began),
            "model": {"name": masked(plain(job.note.get("model", ""))), "digest": job.work.digest, "engine": job.work.engine},
            "input": {"name": masked(plain(job.note.get("input", ""))), "digest": digest(job.work.given), "samples": job.work.samples},
            "output": None,
            "provider": job.provider.name,
            "stand_in": job.stand_in,
            "region": names.get("region"),
            "resources": {"app": self._resources.app, **names},
            "workers": job.workers,
            "channel": job.channel,
            "versions": versions(job.provider.name),
            "requests": dict(meter),
            "usd": None,
        }

    def _finished(self, result: Result) -> dict[str, Any]:
        tariff = tariff_of_run(self._job.provider.name)
        usd = result.bill(tariff).total_usd if tariff else None
        return self._entry("done", result.meter) | {"output": {"digest": digest(result.output)}, "usd": usd}

    def _identity(self, seconds: float) -> str:
        """The name of the caller's account in the cloud. Some SDKs ask a service or another program for this name."""
        provider = self._job.provider

        def asked() -> str:
            caller = getattr(provider, "caller", None)  # a provider need not have it
            return str((caller and caller(self._resources)) or provider.credentials())

        try:
            return masked(plain(begin(asked).result(seconds)))
        except Exception as error:  # of any SDK, or of a service that does not answer
            return f"unknown: {type(error).__name__}"


def digest(values: Any) -> str:
    """The SHA-256 digest of a scipy CSR matrix or of arrays by name: of their shapes, dtypes and values, in hexadecimal digits."""
    if hasattr(values, "indptr"):
        ordered = values if values.has_sorted_indices else values.sorted_indices()
        values = {"indptr": ordered.indptr.astype(np.int64), "indices": ordered.indices.astype(np.int64), "data": ordered.data}
        values["shape"] = np.array(ordered.shape, np.int64)
    hashed = hashlib.sha256()
    for name, array in sorted(values.items()):
        hashed.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def _user() -> str:
    try:
        return plain(getpass.getuser())
    except (KeyError, OSError):  # the system lists no name for this user
        return "unknown"


def _at_most(seconds: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of ``work``, or its error as a text. After ``seconds``, or at an interrupt, an error that says that the wait has ended."""
    found: dict[str, Any] = {}

    def run() -> None:
        try:
            made = work()
        except Exception as error:  # of any kind: the run has its answer, or another error
            made = {"error": masked(plain(str(error) or type(error).__name__))}
        found.update(made)

    thread = threading.Thread(target=run, name="fsd-audit", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # no more threads
        return {"error": str(error)}
    with suppress(KeyboardInterrupt):
        thread.join(remaining(seconds))
    return dict(found) or {"error": "the store has not answered before the end of the wait, so the entry may be missing"}
