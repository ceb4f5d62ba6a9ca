"""Reads and checks the audit log of an app.

`fsd_core.client.trail` writes the entries, `fsd_core.storage.ledger` links each entry to the entry before it.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from fsd_core.client.apps import place, reported
from fsd_core.client.job import Progress
from fsd_core.client.marks import Marks, kept_s
from fsd_core.client.result import plain
from fsd_core.client.saving import opened, read_saved
from fsd_core.common import arguments, interrupt
from fsd_core.common.sealed import Damaged
from fsd_core.errors import CheckFailed, InputError
from fsd_core.storage import ledger

__all__ = ["AuditEntry", "AuditLog", "read_audit_log"]

COLUMNS = (
    *(("run", "run"), ("outcome", "outcome"), ("user", "caller.user"), ("machine", "caller.machine")),
    *(("identity", "caller.identity"), ("provider", "provider"), ("region", "region"), ("app", "resources.app")),
    *(("model", "model.name"), ("model_digest", "model.digest"), ("input", "input.name"), ("input_digest", "input.digest")),
    *(("output_digest", "output.digest"), ("workers", "workers"), ("channel", "channel"), ("fsd", "versions.fsd")),
    *(("seconds", "seconds"), ("requests", "requests"), ("usd", "usd"), ("error", "error.message")),
)


@attrs.frozen
class AuditEntry:
    """One entry of an audit log: one run.

    - ``number``: from 1. ``at``: when it was written, in seconds since 1970. ``digest``: the SHA-256 digest of the entry.
    - ``what``: ``run``, its id; ``outcome``: done, failed or interrupted; ``error`` (code, message, rank, layer) or `None`; ``caller``
      (user, machine, and identity, the name of the caller's account in the cloud); ``began`` and ``seconds``; ``model`` (name, digest,
      engine); ``input`` (name, digest, samples); ``output`` (digest) or `None`; ``provider``, ``stand_in``, ``region``, ``resources``,
      ``workers``, ``channel``, ``versions``; ``requests``, the counts of `Result.meter` without the requests for this entry (if the run
      failed: only the client's requests); ``usd`` by the provider's tariff, or `None`.
    """

    number: int
    at: float
    digest: str
    what: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All fields as one object of values that JSON can hold; it has the keys of ``what`` itself."""
        return {**self.what, "number": self.number, "at": self.at, "digest": self.digest}

    def text(self, path: str) -> str:
        """The value at a path such as ``caller.user``, as one line for people; empty if there is none."""
        value: Any = self.what
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if path == "requests" and isinstance(value, Mapping):
            names = ("publish_requests", "receive_requests", "ack_requests", "object_puts", "object_gets", "object_lists", "invocations")
            value = sum(count for name in names if isinstance(count := value.get(name), int))
        return "" if value is None else f"{value:.9g}" if isinstance(value, float) else plain(str(value))


@attrs.frozen(eq=False)
class AuditLog:
    """The audit log of an app.

    - ``where``: a text for people: the app and its provider, or the file.
    - ``entries``: the entries that can be read, ascending by number.
    - ``checked``: whether the log was checked. ``misfit_number`` and ``misfit``: the number of the first entry that fails the check (`None`
      if the whole log fails), and the reason in one line; both are `None` if all entries pass.
    """

    where: str
    entries: list[AuditEntry]
    checked: bool = False
    misfit_number: int | None = None
    misfit: str | None = None

    def verify(self) -> None:
        """Raise `CheckFailed` if the log fails the check. The error names the first entry that does."""
        if self.misfit is not None:
            which = "" if self.misfit_number is None else f"entry {self.misfit_number} does not fit: "
            raise CheckFailed(f"audit log of {self.where}: {which}{self.misfit}")

    def to_json(self) -> dict[str, Any]:
        """The log as values that JSON can hold."""
        misfit = None if self.misfit is None else {"number": self.misfit_number, "reason": self.misfit}
        return {"log": self.where, "entries": [entry.to_json() for entry in self.entries], "checked": self.checked, "misfit": misfit}

    def to_csv(self) -> str:
        """The log as a CSV table with a row for each entry; times are UTC."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["number", "time", *(name for name, _ in COLUMNS), "digest"])
        for entry in self.entries:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.at))
            table.writerow([entry.number, at, *(_cell(entry.text(path)) for _, path in COLUMNS), entry.digest])
        return text.getvalue()


@interrupt.heard()
def read_audit_log(
    provider: str = "local",
    app: str = "fsd",
    settings: Mapping[str, object] | None = None,
    home: str | os.PathLike[str] | None = None,
    *,
    saved: str | os.PathLike[str] | None = None,
    last: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> AuditLog:
    """Read the audit log of an app, and check it if it is read as a whole.

    - ``provider``, ``app``, ``settings``, ``home``: those of `run`. ``progress``: that of `deploy`.
    - ``saved``: read this file, which `destroy` wrote, instead of the app's store. It may lack the oldest entries, because the store keeps
      an entry only for a limited time.
    - ``last``: read only the latest ``last`` entries, and do not check them. Default: all.

    The check finds an entry that was changed, removed, added or moved: each entry holds the digest of the entry before it, and ``home``
    holds the digests of all entries that this client wrote. If the app does not exist, or no run has left an entry, the log is empty. An
    empty log fails the check if ``home`` holds digests of its entries.

    Raises `InputError` if an argument is wrong or the file cannot be read, and `DriverError` if the store refuses a request.
    """
    last = None if last is None else arguments.whole("last", last, 1)
    folder = arguments.home(home)
    if saved is not None:
        file = arguments.path("saved", saved)
        found = read_saved(file)
        return _log(str(file), found[-last:] if last else found, None if last else ledger.check(found, first=False), last is None)
    found_provider, provisioner = place(provider, app, settings)
    where = f"app {app} on {provider}"
    with reported(progress):
        resources = provisioner.find(app)
        if resources is None:
            return _of_missing(where, Marks.of_missing(found_provider, app, folder)) if last is None else AuditLog(where, [])
        with opened(found_provider, resources) as store:
            found = ledger.read_all(store, last)
    if last is not None:
        return _log(where, found, None, False)
    marks = Marks.of(found_provider, resources, folder)
    misfit = ledger.check(found, marks.read(), kept_s(resources))
    if misfit and "this client" in misfit.reason:
        misfit = attrs.evolve(misfit, reason=f"{misfit.reason}; {_remove(marks)}")
    return _log(where, found, misfit, True)


def _of_missing(where: str, marks: list[Marks]) -> AuditLog:
    """The log of an app that does not exist. It fails the check if this client has written to the log of an app of this name."""
    for each in marks:
        if last := each.newest():
            why = f"the app does not exist, but this client wrote entry {last.number} of the log of an app of this name"
            return AuditLog(where, [], True, misfit=f"{why}; {_remove(each)}; if it is in another account, use its credentials")
    return AuditLog(where, [], True)


def _remove(marks: Marks) -> str:
    return f"if the app was destroyed since then, elsewhere or by an interrupted command, remove {marks.file}"


def _log(where: str, found: list[ledger.Body], misfit: ledger.Misfit | None, checked: bool) -> AuditLog:
    entries = []
    for _, body in found:
        try:
            link = ledger.link(body)
        except (Damaged, InputError):
            continue  # the check names this entry
        entries.append(AuditEntry(link.number, link.at, ledger.digest_of(body), link.entry))
    number, reason = (misfit.number, misfit.reason) if misfit else (None, None)
    return AuditLog(where, entries, checked, number, reason)


def _cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
