"""Settles a locked message by the outcome that the client sent."""

from __future__ import annotations

from dataclasses import dataclass

from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.codec import ACCEPTED, AmqpError, Described, described
from fsd_conformance.emulators.service_bus.store import LockLostError, NoDeadLetterError, Queue

__all__ = ["LOCK_LOST", "LOST", "NOT_IMPLEMENTED", "Outcome", "settle"]

NOT_IMPLEMENTED = "amqp:not-implemented"

LOCK_LOST = (
    "com.microsoft:message-lock-lost",
    "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue.",
)
_REASON, _DESCRIPTION = "DeadLetterReason", "DeadLetterErrorDescription"
_ACCEPTED, _LIST = frames.ACCEPTED_OUTCOME, b"\x45"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The encoded answer to the client: its own outcome, or "rejected" with ``failed``, a condition and a description."""

    encoded: bytes
    failed: tuple[str, str] | None = None

    @staticmethod
    def failure(condition: str, description: str) -> Outcome:
        """The answer where the outcome cannot be applied."""
        return Outcome(frames.rejected(condition, description), (condition, description))


LOST = Outcome.failure(*LOCK_LOST)
_DONE = {code: Outcome(ACCEPTED if code == _ACCEPTED else described(code, _LIST)) for code in range(_ACCEPTED, frames.MODIFIED + 1)}


def settle(queue: Queue, token: bytes, state: object) -> Outcome:
    """Apply a decoded outcome to the message that ``token`` locks; None releases it. Raises `AmqpError` for an unknown outcome."""
    code, fields = (state.descriptor, state.value) if isinstance(state, Described) else (frames.RELEASED, [])
    if not isinstance(code, int) or code not in _DONE or not isinstance(fields, list):
        raise AmqpError(NOT_IMPLEMENTED, f"outcome {code!r:.40}")
    if more := _changes(code, fields):
        return Outcome.failure(NOT_IMPLEMENTED, f"changing a message's properties while it is settled is not implemented here: {more}")
    try:
        if code == _ACCEPTED:
            queue.complete(token)
        elif code == frames.REJECTED:
            queue.dead_letter(token, *_reason(fields))
        elif code == frames.RELEASED:
            queue.release(token, failed=False)
        elif len(fields) > 1 and fields[1] is True:  # the field undeliverable-here
            queue.defer(token)
        else:
            queue.release(token, failed=True)
    except LockLostError:
        return LOST
    except NoDeadLetterError as error:
        return Outcome.failure("amqp:not-allowed", str(error))
    return _DONE[code]


def _changes(code: int, fields: list[object]) -> str:
    """The message properties that an outcome would change, as text."""
    notes = fields[2] if code == frames.MODIFIED and len(fields) > 2 else _info(fields) if code == frames.REJECTED else None
    return ", ".join(f"{name!r:.40}" for name in notes if name not in (_REASON, _DESCRIPTION)) if isinstance(notes, dict) else ""


def _info(fields: list[object]) -> object:
    error = fields[0].value if fields and isinstance(fields[0], Described) else None
    return error[2] if isinstance(error, list) and len(error) > 2 else None


def _reason(fields: list[object]) -> tuple[str | None, str | None]:
    """Reason and description of a dead letter, from the error's map of azure-servicebus."""
    info = _info(fields)
    if not isinstance(info, dict):
        return None, None
    reason, description = info.get(_REASON), info.get(_DESCRIPTION)
    return (reason if isinstance(reason, str) else None, description if isinstance(description, str) else None)
