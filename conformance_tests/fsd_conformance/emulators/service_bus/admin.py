"""The administration API for the queues of one namespace: Atom over HTTP, as ServiceBusAdministrationClient uses it.

``GET /health`` answers once the namespace is ready. Tokens are not checked, and operations cost no credits. Requests about topics, their
subscriptions and rules are answered with 501, except a request for the list of topics if the namespace has no topic.
"""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from xml.etree import ElementTree

from fsd_conformance.emulators.service_bus.broker import Broker
from fsd_conformance.emulators.service_bus.config import check_name, iso, queue_settings
from fsd_conformance.emulators.service_bus.store import Queue, QueueSettings, State
from fsd_conformance.emulators.web import Request, Response
from fsd_core.errors import InputError

__all__ = ["BODY_BYTES", "Admin"]

BODY_BYTES = 1 << 16
_ATOM = "http://www.w3.org/2005/Atom"
_SERVICE_BUS = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
_COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
_TYPE = {"Content-Type": "application/atom+xml;type=entry;charset=utf-8"}
_PAGE = 100
_QUERY = {"api-version", "enrich", "$skip", "$top"}
_CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
# Read-only properties of a queue: the SDK sends them back with a change.
_READ_ONLY = {"SizeInBytes", "MessageCount", "CreatedAt", "UpdatedAt", "AccessedAt", "CountDetails", "EntityAvailabilityStatus"}


class Admin:
    """Answers requests to ``broker``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def route(self, request: Request) -> Response:
        """Answer one request."""
        name = "/".join(request.parts())
        try:
            if asked := _unknown(request):
                return _error(HTTPStatus.NOT_IMPLEMENTED, f"{asked} is not implemented here")
            if name == "health" and "api-version" not in request.query:  # with it, the request is about a queue of that name
                return Response.of({"namespace": self._broker.name, "queues": len(self._broker.queues)})
            if name.lower() == "$namespaceinfo":
                return self._namespace()
            if name.lower() == "$resources/queues":
                return self._feed(request)
            if name.lower() in ("$resources/topics", "$resources/subscriptions") and not self._broker.topics:
                return _answer(_element(None, f"{{{_ATOM}}}feed"))
            if name.startswith("$") or "/subscriptions" in name.lower() or self._broker.topic(name) is not None:
                return _error(HTTPStatus.NOT_IMPLEMENTED, f"'{name}' is not implemented here")
            if request.method == "PUT":
                return self._put(name, request)
            queue = self._broker.queues.get(name.lower())
            if request.method == "GET":
                return _answer(self._entry(queue) if queue is not None else _element(None, f"{{{_ATOM}}}feed"))
            if request.method == "DELETE":
                if not self._broker.delete(name):
                    return _error(HTTPStatus.NOT_FOUND, f"The messaging entity '{name}' could not be found.")
                return Response()
        except InputError as error:
            return _error(HTTPStatus.BAD_REQUEST, str(error))
        return _error(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} of a queue: expected PUT, GET or DELETE")

    def _put(self, name: str, request: Request) -> Response:
        settings = self._settings(check_name(name, self._broker.name), request.body)
        queue = self._broker.queues.get(name.lower())
        if "if-match" in request.headers:
            if queue is None:
                return _error(HTTPStatus.NOT_FOUND, f"The messaging entity '{name}' could not be found.")
            queue.change(settings)
            return _answer(self._entry(queue))
        if queue is not None:
            return _error(HTTPStatus.CONFLICT, f"SubCode=40900. Conflict. Queue '{name}' already exists.")
        return _answer(self._entry(self._broker.create(name, settings)), HTTPStatus.CREATED)

    def _settings(self, name: str, body: bytes) -> QueueSettings:
        where = f"queue {name!r}"
        try:
            text = body.decode("utf-8-sig")  # the XML declaration does not count
            if "<!" in text or "\0" in text:  # UTF-16 would hide a declaration
                raise InputError(f"{where}: expected XML in UTF-8 without declarations of types")
            root = ElementTree.fromstring(text)
        except (ElementTree.ParseError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: the request: expected XML: {error}") from None
        description = root.find(f"{{{_ATOM}}}content/{{{_SERVICE_BUS}}}QueueDescription")
        if description is None:
            kinds = [part.tag.rpartition("}")[2] for part in root.findall(f"{{{_ATOM}}}content/*")]
            raise InputError(
                f"{where}: {', '.join(kinds) or 'no description'}: expected QueueDescription: only queues are implemented here"
            )
        properties = {part.tag.rpartition("}")[2]: part.text for part in description}
        return queue_settings({key: text for key, text in properties.items() if key not in _READ_ONLY}, self._broker.tier, where)

    def _feed(self, request: Request) -> Response:
        first, count = (_whole(request, name, *bounds) for name, bounds in (("$skip", (0, 0)), ("$top", (1, _PAGE))))
        feed = _element(None, f"{{{_ATOM}}}feed")
        queues = sorted(self._broker.queues.values(), key=lambda queue: queue.name)
        _element(feed, f"{{{_ATOM}}}link", rel="self", href=request.path)
        if first + count < len(queues):
            _element(feed, f"{{{_ATOM}}}link", rel="next", href=f"{request.path}?$skip={first + count}&$top={count}")
        for queue in queues[first : first + count]:
            feed.append(self._entry(queue))
        return _answer(feed)

    def _entry(self, queue: Queue) -> ElementTree.Element:
        entry, content = self._begin(queue.name, queue.created, queue.updated)
        description = _element(content, f"{{{_SERVICE_BUS}}}QueueDescription")
        settings, counts = queue.settings, queue.counts()
        dead = sum(queue.dead.counts().values()) if queue.dead is not None else 0
        for name, text in (
            ("LockDuration", iso(settings.lock_ms)),
            ("MaxSizeInMegabytes", settings.max_bytes >> 20),
            ("RequiresDuplicateDetection", "false"),
            ("RequiresSession", "false"),
            ("DefaultMessageTimeToLive", iso(settings.ttl_ms)),
            ("DeadLetteringOnMessageExpiration", str(settings.dead_letter_expired).lower()),
            ("DuplicateDetectionHistoryTimeWindow", "PT10M"),
            ("MaxDeliveryCount", settings.max_deliveries),
            ("EnableBatchedOperations", "true"),
            ("SizeInBytes", queue.bytes),
            ("MessageCount", sum(counts.values()) + dead),
            ("Status", "Active"),
            ("CreatedAt", _time(queue.created)),
            ("UpdatedAt", _time(queue.updated)),
            ("AccessedAt", _time(queue.updated)),
            ("AutoDeleteOnIdle", iso(None)),
            ("EnablePartitioning", "false"),
            ("UserMetadata", settings.user_metadata),
            ("EntityAvailabilityStatus", "Available"),
            ("EnableExpress", "false"),
            ("MaxMessageSizeInKilobytes", self._broker.message_bytes(queue) >> 10 if self._broker.tier.own_limit else None),
        ):
            if text is not None:
                _element(description, f"{{{_SERVICE_BUS}}}{name}").text = str(text)
        details = _element(description, f"{{{_SERVICE_BUS}}}CountDetails")
        for name, count in (
            ("ActiveMessageCount", counts[State.ACTIVE] + counts[State.DEFERRED]),
            ("DeadLetterMessageCount", dead),
            ("ScheduledMessageCount", counts[State.SCHEDULED]),
            ("TransferMessageCount", 0),
            ("TransferDeadLetterMessageCount", 0),
        ):
            _element(details, f"{{{_COUNTS}}}{name}").text = str(count)
        return entry

    def _namespace(self) -> Response:
        entry, content = self._begin(self._broker.name, self._broker.created, self._broker.created)
        info = _element(content, f"{{{_SERVICE_BUS}}}NamespaceInfo")
        for name, text in (
            ("CreatedTime", _time(self._broker.created)),
            ("MessagingSKU", self._broker.tier.name),
            ("ModifiedTime", _time(self._broker.created)),
            ("Name", self._broker.name),
            ("NamespaceType", "Messaging"),
        ):
            _element(info, f"{{{_SERVICE_BUS}}}{name}").text = text
        return _answer(entry)

    def _begin(self, name: str, created: int, updated: int) -> tuple[ElementTree.Element, ElementTree.Element]:
        """A new entry, and the element for its content."""
        entry = _element(None, f"{{{_ATOM}}}entry")
        for tag, text in (("id", f"sb://{self._broker.name}/{name}"), ("title", name)):
            _element(entry, f"{{{_ATOM}}}{tag}").text = text
        for tag, time in (("published", created), ("updated", updated)):
            _element(entry, f"{{{_ATOM}}}{tag}").text = _time(time)
        return entry, _element(entry, f"{{{_ATOM}}}content", type="application/xml")


def _unknown(request: Request) -> str:
    """A parameter or header of the request that is not implemented; "" if all are."""
    for name in request.query:
        if name not in _QUERY:
            return f"query parameter {name!r}"
    condition = {name: request.headers[name] for name in _CONDITIONS if name in request.headers}
    if condition in ({}, {"if-match": "*"}):  # it means that the queue exists
        return ""
    return " and ".join(f"header {name}: {value}" for name, value in condition.items())


def _element(parent: ElementTree.Element | None, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.Element(tag, attributes) if parent is None else ElementTree.SubElement(parent, tag, attributes)


def _whole(request: Request, name: str, low: int, default: int) -> int:
    text = request.query.get(name, [str(default)])[0]
    if not text.isdecimal() or len(text) > 9 or int(text) < low:
        raise InputError(f"{name}: {text!r}: expected a whole number of at least {low}")
    return int(text)


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _answer(element: ElementTree.Element, status: int = HTTPStatus.OK) -> Response:
    return Response(status, ElementTree.tostring(element, encoding="utf-8"), _TYPE)


def _error(status: int, detail: str) -> Response:
    error = _element(None, "Error")
    _element(error, "Code").text = str(int(status))
    _element(error, "Detail").text = detail
    return _answer(error, status)
