"""The contract between core and a provider: three drivers and a provisioner, their limits as data, and ten error codes.

Core decides what to send, fills batches up to the limits, encodes, tries again, drops duplicates, counts requests and ends waits.
A provider maps each method of a driver to one request of one cloud service and adds nothing to it.

Words that this file uses:

- An *app* is what one ``fsd deploy`` makes: queues, an object store and functions, all under one name.
- A *run* computes the output of one model for one input. Its *workers* are functions, numbered from 0; the number is the *rank*.
- A *slot* is a set of queues, one for each rank. A run holds one slot, so an app of S slots can have S runs at a time.

Rules for every driver. Each sentence below that says *must* has a case in ``fsd_conformance``.

- A method must raise the SDK's own error, unwrapped, and must not retry. ``classify`` must map any error to a `Code`.
- An error may have an attribute ``retry_after_s``: the seconds that the service asks the caller to wait before the next try.
- Drivers must be safe to call from several threads of one process at once.
- ``service`` is the name of the service in messages for people: "Amazon S3".
- ``native()`` returns the SDK's client, for uses that this contract does not cover. A caller may call ``close()`` twice.
- Constructing a driver may open connections; importing a provider's package must import no SDK.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import attrs

__all__ = [
    "WORKER",
    "Code",
    "Delivery",
    "Failure",
    "InvokeDriver",
    "InvokeLimits",
    "Launch",
    "Message",
    "MessageDriver",
    "MessageLimits",
    "ObjectDriver",
    "ObjectLimits",
    "Page",
    "Provider",
    "Provisioner",
    "Refused",
    "Rejected",
    "Resources",
]

WORKER = "worker"  # the function of every app that runs `fsd_core.worker.handle`


# Errors


class Code(enum.Enum):
    """What an error means to core, whatever name the service has for it. Core retries `THROTTLED` and `UNAVAILABLE`, and nothing else."""

    NOT_FOUND = "not_found"  # the key, queue, topic or function does not exist
    ALREADY_EXISTS = "already_exists"  # a put with ``if_absent`` found an object
    INVALID = "invalid"  # the request is malformed: the same request fails again
    DENIED = "denied"  # the credentials are missing, expired, or lack a permission
    THROTTLED = "throttled"  # too many requests, or over a quota: the same request may succeed later
    UNAVAILABLE = "unavailable"  # the service or the network failed: the request may or may not have taken effect
    TOO_LARGE = "too_large"  # the request is over a size limit
    PRECONDITION = "precondition"  # the resource is in another state than the request needs
    DEADLINE = "deadline"  # the time for the request is over
    UNKNOWN = "unknown"  # none of the above


class Refused(ValueError):
    """A driver's own error for a request that it does not send, since the service would refuse it. ``classify`` returns its ``code``."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@attrs.frozen
class Rejected:
    """The service refused entry ``index`` (from 0) of a request of several entries. ``reason`` is a text for people."""

    index: int
    code: Code
    reason: str


# Messages


@attrs.frozen
class Message:
    """One entry of a publish: ``body`` for the queue of ``rank``. Where `MessageLimits.body` is "text", the body is ASCII."""

    rank: int
    body: bytes


@attrs.frozen
class Delivery:
    """One message as a receive returned it. ``token`` acknowledges this delivery of the message and no other delivery."""

    token: object
    body: bytes


@attrs.frozen
class MessageLimits:
    """The limits of a queue service, with their source. Sizes in bytes, times in seconds."""

    batch_messages: int  # the largest number of messages of a publish, and of tokens of an ack
    batch_bytes: int  # the largest publish of two or more messages: their bodies, plus ``overhead_bytes`` for each
    message_bytes: int  # the largest body; a body that is larger than ``batch_bytes`` needs a publish of its own
    overhead_bytes: int  # the bytes that the service counts for each message beside its body
    receive_messages: int  # the largest ``limit`` of a receive
    wait_s: float  # the largest ``wait_s`` of a receive
    lease_s: float  # the service delivers a message again when it is not acknowledged this long after its delivery
    billing_bytes: int  # a publish or receive is billed as one request for each started unit of so many bytes
    body: Literal["binary", "text"]
    source: str  # where the figures are published: an address or a title
    as_of: str  # the day on which the figures were read: "2025-01-31"
    # Of a service that sends before `MessageDriver.receive` asks: it stops once so much is delivered and not acknowledged.
    outstanding_messages: int | None = None
    outstanding_bytes: int | None = None


@runtime_checkable
class MessageDriver(Protocol):
    """The queues of one slot, one for each rank: messages arrive at least once, in any order. One call is one API request.

    - A published message must be delivered to the queue of its rank, and to no other rank or slot, at least once.
    - A delivered message must not be delivered again before ``lease_s`` passed, and must be after, unless acknowledged.
    - ``receive`` must return as soon as one message is there, and an empty sequence after ``wait_s`` if none is.
    - ``publish`` and ``ack`` must return one `Rejected` for each refused entry; all other entries took effect.
    - An ack of a token that is no longer valid must be harmless.
    """

    service: str
    limits: MessageLimits

    def route(self, rank: int) -> Hashable:
        """The destination of a publish that reaches ``rank``. One publish can carry messages for several ranks of equal route.

        Makes no request.
        """

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """Send 1 to ``batch_messages`` messages of one route. Over a limit: must raise an error of `Code.TOO_LARGE` or `Code.INVALID`."""

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return 1 to ``limit`` messages of the queue of ``rank``, or none when no message came within ``wait_s`` seconds."""

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove 1 to ``batch_messages`` delivered messages from the queue of ``rank`` for good."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method of this driver raised."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Close the connections. Messages stay in their queues."""


# Objects


@attrs.frozen
class Page:
    """A part of a listing: keys in ascending order. ``next``, a text of the driver's own, requests the next page; `None`: no more pages."""

    keys: Sequence[str]
    next: str | None


@attrs.frozen
class ObjectLimits:
    """The limits of an object store, with their source. Sizes in bytes, times in seconds."""

    object_bytes: int  # the largest object
    delete_keys: int  # the largest number of keys of a delete
    page_keys: int  # the largest number of keys of a page
    poll_s: float  # core waits at least this long before it asks again for a key that did not exist
    source: str  # where the figures are published: an address or a title
    as_of: str  # the day on which the figures were read: "2025-01-31"


@runtime_checkable
class ObjectDriver(Protocol):
    """A key-value store with read-after-write consistency. A key is relative, ``/``-separated ASCII of up to 512 characters.

    - A get or list that starts after a put returned must see it. A reader must see a whole object or none.
    - With ``if_absent``, exactly one of any number of concurrent puts of a key must win; the others raise `Code.ALREADY_EXISTS`.
    - ``get`` of a missing key must raise `Code.NOT_FOUND`.
    - ``list`` must return keys in ascending order, each once, over any number of pages.
    - ``delete`` of a missing key must succeed.
    """

    service: str
    limits: ObjectLimits

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Create or replace the object at ``key``; with ``if_absent``, create it and never replace one."""

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes [``start``, ``end``) of the object, by default all. A range past the object's end gives fewer bytes, or none."""

    def list(self, prefix: str, page: str | None = None) -> Page:
        """One page of the keys that start with ``prefix``: the first, or the one that `Page.next` of the page before requests."""

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove 1 to ``delete_keys`` objects. Returns one `Rejected` for each key whose object stays."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method of this driver raised."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Close the connections. Objects stay in the store."""


# Functions


@attrs.frozen
class InvokeLimits:
    """The limits of a function platform, with their source. `None`: no limit is known. Sizes in bytes, times in seconds.

    ``failures`` is how core learns that a function died:

    - "host": the function's host sees it and calls `fsd_core.worker.report_exit`. Core never calls `InvokeDriver.failures`.
    - "queue": the platform puts it into a queue. Any process may read it there: `InvokeDriver.failures` is one receive.
    - "launcher": only the driver that launched the function learns it. `InvokeDriver.failures` makes no request.
    """

    payload_bytes: int
    concurrency: int | None  # functions of the app that may run at once
    memory_bytes: int | None  # of one function
    timeout_s: float | None  # of one function
    source: str  # where the figures are published: an address or a title
    as_of: str  # the day on which the figures were read: "2025-01-31"
    end_with_client: bool = False  # closing the client's driver ends all functions that it started
    failures: Literal["host", "queue", "launcher"] = "host"
    process_bytes: int = 72 << 20  # of a worker before it loads its weights: interpreter, numpy and what the provider imports
    start_s: float = 5.0  # core repeats a launch whose function has not begun by then: longer than 99 % of the cold starts


@attrs.frozen
class Failure:
    """A function that died, or a launch that the platform dropped. ``payload``: the launch's; ``reason``: the platform's text.

    ``nonce`` identifies the invocation: the platform's handler passes the same text to `fsd_core.worker.handle`.
    """

    payload: bytes
    nonce: str
    reason: str


class Launch(Protocol):
    """An asynchronous invocation that the platform accepted."""

    @property
    def text(self) -> str:
        """What went wrong, in words for people. Empty: nothing is known to be wrong, or the platform gives no text."""

    def poll(self) -> Code | None:
        """The code of what went wrong, once the platform has refused or lost the launch; `None` before. Makes no request.

        Where `InvokeLimits.failures` is "queue", it knows only what this driver's calls of `InvokeDriver.failures` have received.
        """


@runtime_checkable
class InvokeDriver(Protocol):
    """Starts functions, asynchronously and at least once: a launch may run late, twice, or never.

    - ``invoke`` must return without waiting for the function to end.
    - A payload over ``payload_bytes`` must raise `Code.TOO_LARGE` or `Code.INVALID`, before anything starts.
    - A function that does not exist must raise `Code.NOT_FOUND`, at once or from ``Launch.poll``.
    - More than ``concurrency`` at once must give `Code.THROTTLED`, at once or from ``Launch.poll``.
    """

    service: str
    limits: InvokeLimits

    def invoke(self, function: str, payload: bytes) -> Launch:
        """Request that the platform runs ``function``, for instance `WORKER`, with ``payload``."""

    def failures(self, take: Callable[[bytes], bool]) -> Sequence[Failure]:
        """The failures that this call learns of and whose payload ``take`` accepts; no later call returns these again.

        A failure that ``take`` declines stays for later calls, and in a queue for other processes. Where `InvokeLimits.failures` is
        "queue", a call is one receive of the queue service and, if it takes a failure, one ack.
        """

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method of this driver raised."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Close the connections. Where `InvokeLimits.end_with_client` is true, all functions end that this driver started."""


# Provisioning


@attrs.frozen
class Resources:
    """An app as `Provisioner.ensure` made it. ``names`` are texts of the provider's own, never secrets: functions get them too."""

    app: str
    ranks: int
    slots: int
    names: Mapping[str, str] = attrs.field(factory=dict)


class Provisioner(Protocol):
    """Makes and removes what an app needs. A repeated call changes nothing. The name of each thing contains the app's name.

    Unlike a driver, a provisioner may make many requests in one call, and repeats those that fail.

    - ``find`` must return what the last ``ensure`` returned, and `None` before the first and after ``destroy``.
    """

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make what is missing for at least ``slots`` slots of ``ranks`` ranks. Returns once all of it is usable, not only accepted."""

    def find(self, app: str) -> Resources | None:
        """The app's resources, or `None` if the app does not exist or was made only in part. Makes nothing."""

    def sweep(self, app: str) -> Sequence[str]:
        """Remove what interrupted calls left behind and ``ensure`` will not use; one line for people for each thing removed."""

    def destroy(self, app: str) -> Sequence[str]:
        """Remove everything of the app; one line for people for each thing removed."""


class Provider(Protocol):
    """Makes a provider's drivers. Core finds the object by its entry point in the group ``fsd.providers``.

    Clients use ``provisioner``, ``admit``, ``credentials``, ``stand_in`` and ``advice``; workers use ``attach``; both use the rest.
    """

    name: str

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """A provisioner with the ``settings`` of the provider's table in ``fsd.toml``. Raises `InputError` if one is wrong."""

    def attach(self, app: str) -> Resources:
        """In a function: the app's resources, from the function's environment. Makes no request.

        Raises `InputError` if this process is no function of the app.
        """

    def admit(self, resources: Resources, workers: int) -> None:
        """Check that so many workers can all send to each other through the app's queues. Makes no request.

        Raises `InputError`, one line, if they cannot.
        """

    def messages(self, resources: Resources, slot: int) -> MessageDriver:
        """The queues of one slot, numbered from 0."""

    def objects(self, resources: Resources) -> ObjectDriver:
        """The app's object store."""

    def invoker(self, resources: Resources) -> InvokeDriver:
        """Starts the app's functions."""

    def credentials(self) -> str:
        """Whose credentials the SDK finds and where, in words for people and without secrets. Raises the SDK's own error if it finds none.

        Makes no request but those of the credentials' source itself.
        """

    def stand_in(self) -> str | None:
        """Host and port of the emulator that this process's environment sends the SDK to; `None` if it sends the SDK to the cloud."""

    def advice(self, error: str) -> str | None:
        """What a person can do about an error with this text; `None` if the provider knows no advice."""
