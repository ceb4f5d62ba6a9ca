"""What ``fsd audit`` answers: the promises about a deployed app, and whether each one holds.

An adapter reads facts from its services and compares them by the functions below, which also write the texts for people.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

import attrs

__all__ = ["REPAIR", "Auditor", "Promise", "exactly", "same", "shown", "unread"]

REPAIR = "fsd deploy --repair"  # the advice if a new deployment corrects the difference; `AppProvisioner.audit` completes the command
SHOWN = "shown only"  # ``Promise.expected`` of a fact that is only shown
_MOST = 5  # entries of a list that a text names


@attrs.frozen
class Promise:
    """One promise about a deployed app: what was found, what was expected, whether it holds.

    ``advice``: what to do if it does not hold; empty if it holds. All texts are for people. A fact that is only shown holds, and its
    ``expected`` is "shown only".
    """

    name: str
    holds: bool
    found: str
    expected: str
    advice: str = ""

    @property
    def verdict(self) -> str:
        """The word for people: "holds", "FAILS", or "shown" for a fact that is only shown."""
        return "shown" if self.expected == SHOWN else "holds" if self.holds else "FAILS"


@runtime_checkable
class Auditor(Protocol):
    """A provisioner that can audit its apps. The contract does not require this: ``fsd audit`` refuses all other providers."""

    def audit(self, app: str) -> Sequence[Promise] | None:
        """Compare the app with what this version makes, without a change. `None` if the app does not exist or was made only in part."""


def same(name: str, found: Mapping[str, object], expected: object, advice: str = REPAIR) -> Promise:
    """The promise that each resource in ``found`` has the value ``expected``. The value `None` means that the resource lacks it."""
    values = {what: _text(value) for what, value in found.items()}
    wanted = _text(expected)
    others = [f"{what}: {value}" for what, value in values.items() if value != wanted]
    text = _list(others, "; ") if others else wanted + (f", {len(values)} of {len(values)}" if len(values) > 1 else "")
    return _promise(name, not others, text, wanted, advice)


def exactly(name: str, found: Collection[str], expected: Collection[str], what: str, advice: str = REPAIR) -> Promise:
    """The promise that ``found`` has the entries of ``expected`` and no others. The text names each entry too many and each missing one.

    ``what``: one entry as people call it, for instance "statement".
    """
    more, fewer = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    parts = [f"{word}: {_list(entries, ', ')}" for word, entries in (("too many", more), ("missing", fewer)) if entries]
    count = len(set(expected))
    wanted = f"{count} {what}{'s' * (count != 1)}, as this version sets {'them' if count != 1 else 'it'}" if expected else f"no {what}"
    return _promise(name, not parts, "; ".join(parts) or wanted, wanted, advice)


def shown(name: str, found: str) -> Promise:
    """A fact that is only shown: it always holds."""
    return _promise(name, True, found, SHOWN, "")


def unread(name: str, why: str, expected: object, advice: str) -> Promise:
    """A promise that does not hold because the credentials may not read the setting. ``why``: the permission that is missing."""
    return _promise(name, False, f"not read: {why}", _text(expected), advice)


def _promise(name: str, holds: bool, found: str, expected: str, advice: str) -> Promise:
    return Promise(name, holds, found, expected, "" if holds else advice)


def _text(value: object) -> str:
    return "none" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _list(entries: Sequence[str], between: str) -> str:
    more = len(entries) - _MOST
    return between.join(entries[:_MOST]) + (f"{between}and {more} more" if more > 0 else "")
