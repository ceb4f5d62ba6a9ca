"""The AMQP nodes that answer requests: ``$cbs``, which accepts access tokens, and ``ENTITY/$management``, which manages one queue.

Any token is valid for an entity that exists; a token for any other entity is refused, as by the service. Requests and answers are those of
azure-servicebus 7.15. An operation, or a field of a request, that is not implemented is answered with 501.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from uuid import UUID

from fsd_conformance.emulators.service_bus import frames
from fsd_conformance.emulators.service_bus.broker import Broker
from fsd_conformance.emulators.service_bus.codec import (
    NULL,
    AmqpError,
    Described,
    array,
    binary,
    decode,
    described,
    encode,
    listed,
    long,
    mapping,
    string,
    symbol,
    timestamp,
    ulong,
)
from fsd_conformance.emulators.service_bus.message import incoming, outgoing, properties, sections
from fsd_conformance.emulators.service_bus.settle import LOCK_LOST, NOT_IMPLEMENTED, settle
from fsd_conformance.emulators.service_bus.store import LockLostError, Message, Queue, UnknownMessageError
from fsd_conformance.emulators.service_bus.throttle import BUSY

__all__ = ["Node"]

_CBS, _MANAGEMENT = "$cbs", "/$management"
_MAX_ITEMS = 1000  # messages or locks of one request
_PROPERTIES, _APPLICATION, _VALUE = 0x73, 0x74, 0x77
_OUTCOMES = {
    "completed": frames.ACCEPTED_OUTCOME,
    "abandoned": frames.MODIFIED,
    "defered": frames.MODIFIED,
    "suspended": frames.REJECTED,
}
_SCHEDULE = {
    "message",
    "message-id",
    "session-id",
    "partition-key",
}  # fields of a message to schedule; the last three are also in it


class _Refused(Exception):
    def __init__(self, status: int, condition: str, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.condition = condition


class Node:
    """The node at ``address``. ``managed``: the address of the entity that it manages, None for ``$cbs``.

    A request applies to the queue that has this address at the time of the request, even if the queue was deleted and made again.
    """

    def __init__(self, broker: Broker, address: str, managed: str | None) -> None:
        self.address = address
        self.managed = managed
        self._broker = broker

    @staticmethod
    def find(broker: Broker, address: str) -> Node | None:
        """The node at an address, which ignores upper and lower case; None where no node exists."""
        lower = address.lower().rstrip("/")
        if lower == _CBS:
            return Node(broker, lower, None)
        if lower.endswith(_MANAGEMENT):
            managed = lower[: -len(_MANAGEMENT)]
            return Node(broker, lower, managed) if broker.find(managed) or broker.topic(managed) else None
        return None

    def answer(self, payload: bytes) -> bytes:
        """The encoded answer to a request. Raises `AmqpError` where the bytes are not a message."""
        fields, application = properties(payload)
        request = fields[0] if fields else None
        try:
            if self.managed is None:
                self._put_token(application)
                return self._encoded(request, 200)
            queue = self._broker.find(self.managed)
            if self._broker.topic(self.managed) is not None:
                what = f"'{self.managed}': $management of topics is not implemented here; to schedule, set scheduled_enqueue_time_utc"
                raise _Refused(501, "amqp:not-implemented", what)
            if queue is None:
                raise _Refused(404, "amqp:not-found", f"The messaging entity '{self.managed}' could not be found.")
            status, body = self._manage(queue, application.get("operation"), _body(payload))
            return self._encoded(request, status, body)
        except _Refused as refused:
            return self._encoded(request, refused.status, NULL, refused.condition, str(refused))

    def too_large(self, start: bytes, size: int) -> bytes:
        """The encoded answer to a request that is too large: it has ``size`` bytes, and ``start`` holds its first bytes. The outcome
        "rejected" would break the SDK's link.
        """
        request = None
        with suppress(AmqpError):  # the bytes end within a section
            for code, _, value, after in sections(start):
                fields, _ = decode(start, value, after) if code == _PROPERTIES else (None, 0)
                if isinstance(fields, list) and fields:
                    request = fields[0]
        return self._encoded(request, 413, NULL, "amqp:link:message-size-exceeded", f"a request of {size} bytes is too large")

    def _encoded(self, request: object, status: int, body: bytes = NULL, condition: str | None = None, text: str = "OK") -> bytes:
        names = ("status-code", "status-description") if self.managed is None else ("statusCode", "statusDescription")
        status_fields = [(string(names[0]), b"\x71" + status.to_bytes(4, "big")), (string(names[1]), string(text))]
        if condition is not None:
            status_fields.append((string("errorCondition"), symbol(condition)))
        number = ulong(request) if type(request) is int and request >= 0 else encode(request)
        return b"".join(
            (
                described(_PROPERTIES, listed(NULL, NULL, NULL, NULL, NULL, number)),
                described(_APPLICATION, mapping(status_fields)),
                described(_VALUE, body),
            )
        )

    def _put_token(self, application: Mapping[object, object]) -> None:
        if application.get("operation") != "put-token":
            raise _Refused(400, "amqp:not-allowed", f"{_CBS} supports put-token only")
        if not isinstance(application.get("name"), str) or not isinstance(application.get("type"), str):
            raise _Refused(400, "amqp:not-allowed", "put-token needs a name and a type")
        audience = str(application["name"]).lower().rstrip("/").removesuffix(_MANAGEMENT)
        condition, why = self._broker.missing(audience)
        if not self._broker.holds(audience) and condition == "amqp:not-found":  # the attach gets the reason why a subscription is left out
            raise _Refused(404, condition, why)

    def _manage(self, queue: Queue, operation: object, body: Mapping[object, object]) -> tuple[int, bytes]:
        prefix, _, name = operation.rpartition(":") if isinstance(operation, str) else ("", "", "")
        found = _OPERATIONS.get(name) if prefix == "com.microsoft" else None
        if found is None:
            raise _Refused(501, "amqp:not-implemented", f"operation {operation!r:.60} is not implemented here")
        act, known = found
        _known(body, known, name)
        status, answer = act(self, queue, body)
        self._broker.pump(queue)
        if queue.dead is not None:
            self._broker.pump(queue.dead)
        return status, answer

    def _renew(self, queue: Queue, body: Mapping[object, object]) -> tuple[int, bytes]:
        try:
            times = [queue.renew(token) for token in _tokens(body)]
        except LockLostError:
            raise _Refused(410, *LOCK_LOST) from None
        return 200, mapping([(string("expirations"), array(map(timestamp, times)))])

    def _settle(self, queue: Queue, body: Mapping[object, object]) -> tuple[int, bytes]:
        status = body.get("disposition-status")
        code = _OUTCOMES.get(status) if isinstance(status, str) else None
        if code is None:
            raise _Refused(400, "com.microsoft:argument-error", f"disposition-status {status!r:.40}: expected {', '.join(_OUTCOMES)}")
        info = {"DeadLetterReason": body.get("deadletter-reason"), "DeadLetterErrorDescription": body.get("deadletter-description")}
        fields: list[object] = [None, status == "defered"] if code == frames.MODIFIED else [Described(0x1D, [None, None, info])]
        for token in _tokens(body):
            outcome = settle(queue, token, Described(code, fields))
            if outcome.failed:
                raise _Refused(501 if outcome.failed[0] == NOT_IMPLEMENTED else 410, *outcome.failed)
        return 200, NULL

    def _peek(self, queue: Queue, body: Mapping[object, object]) -> tuple[int, bytes]:
        found: list[Message] = []
        size = 0
        for message in queue.peek(_number(body, "from-sequence-number"), min(_MAX_ITEMS, _number(body, "message-count"))):
            size += message.incoming.size
            if found and size > self._broker.tier.message_bytes:
                break  # the client requests the rest
            found.append(message)
        self._pay(len(found))
        if not found:
            return 204, NULL
        return 200, _messages(mapping([(string("message"), binary(_whole(message, None)))]) for message in found)

    def _receive(self, queue: Queue, body: Mapping[object, object]) -> tuple[int, bytes]:
        lock = _number(body, "receiver-settle-mode") == 1
        numbers = _numbers(body)
        self._pay(len(numbers))
        try:
            found = queue.take_deferred(numbers, lock=lock)
        except UnknownMessageError as error:
            raise _Refused(404, "com.microsoft:message-not-found", str(error)) from None
        entries = []
        for message in found:
            entry = [(string("message"), binary(_whole(message, message.until if lock else None)))]
            if lock:
                entry.append((string("lock-token"), b"\x98" + UUID(bytes_le=message.token).bytes))
            entries.append(mapping(entry))
        return 200, _messages(entries)

    def _schedule(self, queue: Queue, body: Mapping[object, object]) -> tuple[int, bytes]:
        given = body.get("messages")
        if self._broker.fed(queue) or not isinstance(given, list) or not given or len(given) > _MAX_ITEMS:
            raise _Refused(400, "com.microsoft:argument-error", "schedule-message: expected a queue, and messages for it")
        messages = []
        for entry in given:
            payload = entry.get("message") if isinstance(entry, dict) else None
            if not isinstance(payload, bytes):
                raise _Refused(400, "com.microsoft:argument-error", "a message to schedule has no bytes")
            _known(entry, _SCHEDULE, "schedule-message")
            if len(payload) > self._broker.message_bytes(queue):
                raise _Refused(413, "amqp:link:message-size-exceeded", f"a message of {len(payload)} bytes is too large")
            messages.append(incoming(payload))
        self._pay(len(messages))
        if not queue.fits(messages):
            raise _Refused(403, "amqp:resource-limit-exceeded", f"The maximum size of '{queue.name}' has been reached.")
        numbers = [queue.put(message) for message in messages]
        return 200, mapping([(string("sequence-numbers"), array(map(long, numbers)))])

    def _cancel(self, queue: Queue, body: Mapping[object, object]) -> tuple[int, bytes]:
        try:
            queue.cancel(_numbers(body))
        except UnknownMessageError as error:
            raise _Refused(404, "com.microsoft:message-not-found", str(error)) from None
        return 200, NULL

    def _pay(self, cost: int) -> None:
        if not self._broker.throttle.take(cost):
            raise _Refused(503, *BUSY)


# Each operation with its function and its known fields; other fields would change the result, and are refused.
_OPERATIONS: Mapping[str, tuple[Callable[[Node, Queue, Mapping[object, object]], tuple[int, bytes]], set[str]]] = {
    "renew-lock": (Node._renew, {"lock-tokens"}),
    "update-disposition": (Node._settle, {"disposition-status", "lock-tokens", "deadletter-reason", "deadletter-description"}),
    "peek-message": (Node._peek, {"from-sequence-number", "message-count"}),
    "receive-by-sequence-number": (Node._receive, {"sequence-numbers", "receiver-settle-mode"}),
    "schedule-message": (Node._schedule, {"messages"}),
    "cancel-scheduled-message": (Node._cancel, {"sequence-numbers"}),
}


def _known(fields: Mapping[object, object], names: set[str], operation: str) -> None:
    for name, value in fields.items():
        if value is not None and name not in names:
            raise _Refused(501, "amqp:not-implemented", f"{operation}: {name!r:.60} is not implemented here")


def _body(payload: bytes) -> Mapping[object, object]:
    for code, _, value, after in sections(payload):
        if code == _VALUE:
            found, _ = decode(payload, value, after)
            if isinstance(found, dict):
                return found
    raise AmqpError("amqp:decode-error", "a request's body: expected a map")


def _number(body: Mapping[object, object], name: str) -> int:
    value = body.get(name)
    if isinstance(value, int):
        return value
    raise _Refused(400, "com.microsoft:argument-error", f"{name} = {value!r:.40}: expected a number")


def _numbers(body: Mapping[object, object]) -> list[int]:
    given = body.get("sequence-numbers")
    if isinstance(given, list) and len(given) <= _MAX_ITEMS:
        return [number for number in given if isinstance(number, int)]
    raise _Refused(400, "com.microsoft:argument-error", f"sequence-numbers: expected up to {_MAX_ITEMS} numbers")


def _tokens(body: Mapping[object, object]) -> list[bytes]:
    given = body.get("lock-tokens")
    if isinstance(given, list) and len(given) <= _MAX_ITEMS:
        return [token.bytes_le for token in given if isinstance(token, UUID)]
    raise _Refused(400, "com.microsoft:argument-error", f"lock-tokens: expected up to {_MAX_ITEMS} UUIDs")


def _whole(message: Message, locked: int | None) -> bytes:
    head = outgoing(message.incoming, message.sequence, message.enqueued, message.deliveries, locked, message.state)
    return head + message.incoming.body


def _messages(entries: Iterable[bytes]) -> bytes:
    return mapping([(string("messages"), listed(*entries))])
