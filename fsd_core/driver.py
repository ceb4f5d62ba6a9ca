"""The contract between core and a provider: three drivers and a provisioner, their limits as data, and ten error codes.

Core (the package ``fsd_core``) decides what to send, fills batches up to the limits, encodes, retries, drops duplicates, counts requests
and limits waits. A provider maps each method of a driver to one request of one cloud service and adds nothing to it.

Words that this file uses:

- An *app* is the queues, the object store and the functions that one ``fsd deploy`` makes, all under one name.
- A *run* computes the output of one model for one input. Its *workers* are functions, numbered from 0; the number is the *rank*.
- A *slot* is a set of queues, one for each rank. A run holds one slot, so an app of S slots can have S runs at a time.

Rules for every driver follow. ``fsd_conformance`` tests each sentence below that contains *must*.

- A method must raise the SDK's own error, unwrapped, and must not retry. ``classify`` must map any error to a `Code`.
- An error may have an attribute ``retry_after_s``: the seconds that the service wants the caller to wait before the next try.
- Drivers must be safe to call from several threads of one process at once.
- ``service`` is the name of the service in messages for people, for instance "Amazon S3".
- ``native()`` returns the SDK's client, for uses that this contract does not cover. A caller may call ``close()`` twice.
- Constructing a driver may open connections. Importing a provider's package must not import an SDK.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import attrs

__all__ = [
    "CONTRACT",
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

CONTRACT = 1  # the version of this contract; it grows with each change that makes an older provider fail
WORKER = "worker"  # the function of every app that runs `fsd_core.worker.handle`


class Code(enum.Enum):
    """The meaning of an error for core; each service has other names for it. Core retries only `THROTTLED` and `UNAVAILABLE`."""

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
    """The error that a driver raises instead of sending a request that the service would refuse. ``classify`` returns its ``code``."""

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
    """One entry of a publish: ``body`` goes to the queue of ``rank``. If `MessageLimits.body` is "text", the body contains ASCII only."""

    rank: int
    body: bytes


@attrs.frozen
class Delivery:
    """One message that a receive returned. ``token`` acknowledges this delivery of the message and no other delivery."""

    token: object
    body: bytes


@attrs.frozen
class MessageLimits:
    """The limits of a queue service, with their source. Sizes are in bytes, times in seconds."""

    batch_messages: int  # the largest number of messages of a publish, and of tokens of an ack
    batch_bytes: int  # the largest publish of two or more messages: their bodies, plus ``overhead_bytes`` for each
    message_bytes: int  # the largest body; a body that is larger than ``batch_bytes`` needs a separate publish
    overhead_bytes: int  # the bytes that the service counts for each message beside its body
    receive_messages: int  # the largest ``limit`` of a receive
    wait_s: float  # the largest ``wait_s`` of a receive
    lease_s: float  # the service delivers a message again if nobody acknowledged it within this time after its delivery
    billing_bytes: int  # the service bills a publish or receive as one request for each started unit of this many bytes
    body: Literal["binary", "text"]
    source: str  # where the figures are published: an address or a title
    as_of: str  # the day on which the figures were read: "2025-01-31"
    # For a service that pushes messages without a receive: it stops when this much is delivered and not yet acknowledged.
    outstanding_messages: int | None = None
    outstanding_bytes: int | None = None
    side_by_side: bool = True  # two publishes to a queue at once do not wait for each other
    direct: bool = False  # a publish is a request to a queue itself, although the service has topics too: it has another price


@runtime_checkable
class MessageDriver(Protocol):
    """The queues of one slot, one for each rank: messages arrive at least once, in any order. One call is one API request.

    - A published message must be delivered to the queue of its rank, and to no other rank or slot, at least once.
    - The service must not deliver a message again within ``lease_s`` after its delivery, and must deliver it again later if no ack came.
    - ``receive`` must return as soon as the queue has one message. If none comes within ``wait_s``, it must return an empty sequence.
    - ``publish`` and ``ack`` must return one `Rejected` for each refused entry. All other entries have taken effect.
    - An ack of a token that is no longer valid must be harmless.
    """

    service: str
    limits: MessageLimits

    def route(self, rank: int) -> Hashable:
        """The destination of a publish for ``rank``: one publish can carry messages for all ranks of an equal route. Makes no request."""

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """Send 1 to ``batch_messages`` messages of one route. Over a limit, it must raise `Code.TOO_LARGE` or `Code.INVALID`."""

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Return 1 to ``limit`` messages of the queue of ``rank``, or none if no message comes within ``wait_s`` seconds."""

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
    """A part of a listing. ``keys`` ascend. ``next`` is a text that the driver accepts to return the next page; `None` on the last page."""

    keys: Sequence[str]
    next: str | None


@attrs.frozen
class ObjectLimits:
    """The limits of an object store, with their source. Sizes are in bytes, times in seconds."""

    object_bytes: int  # the largest object
    delete_keys: int  # the largest number of keys of a delete
    page_keys: int  # the largest number of keys of a page
    poll_s: float  # core waits at least this long before it requests a key again that did not exist
    source: str  # where the figures are published: an address or a title
    as_of: str  # the day on which the figures were read: "2025-01-31"


@runtime_checkable
class ObjectDriver(Protocol):
    """A key-value store with read-after-write consistency. A key is relative, ``/``-separated ASCII of up to 512 characters.

    - A get or list that starts after a put has returned must show that put. A get must return a complete object, never a part of a put.
    - With ``if_absent``, exactly one of any number of concurrent puts of a key must win; the others raise `Code.ALREADY_EXISTS`.
    - ``get`` of a missing key must raise `Code.NOT_FOUND`.
    - ``list`` must return keys in ascending order, each once, over any number of pages.
    - ``delete`` of a missing key must succeed.
    """

    service: str
    limits: ObjectLimits

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Create or replace the object at ``key``. With ``if_absent``, never replace: raise `Code.ALREADY_EXISTS` if the object exists."""

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes [``start``, ``end``) of the object, by default all. Returns fewer bytes, or none, past the object's end."""

    def list(self, prefix: str, page: str | None = None) -> Page:
        """Return one page of the keys that start with ``prefix``. ``page`` is `Page.next` of the page before; `None`: the first page."""

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove 1 to ``delete_keys`` objects. Returns one `Rejected` for each object that the service did not remove."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method of this driver raised."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Close the connections. Objects stay in the store."""


# Functions


@attrs.frozen
class InvokeLimits:
    """The limits of a function platform, with their source. `None`: no limit is known. Sizes are in bytes, times in seconds.

    ``failures`` names the way by which core gets the report that a function died:

    - "host": the function's host detects the death and calls `fsd_core.worker.report_exit`. Core never calls `InvokeDriver.failures`.
    - "queue": the platform puts a report into a queue, from which any process may read it, by `InvokeDriver.failures`.
    - "launcher": only the driver that launched the function gets the report. `InvokeDriver.failures` makes no request.
    """

    payload_bytes: int
    concurrency: int | None  # functions of the app that may run at once
    memory_bytes: int | None  # of one function
    timeout_s: float | None  # of one function
    source: str  # where the figures are published: an address or a title
    as_of: str  # the day on which the figures were read: "2025-01-31"
    end_with_client: bool = False  # closing the client's driver ends all functions that it started
    failures: Literal["host", "queue", "launcher"] = attrs.field(
        default="host", validator=attrs.validators.in_(("host", "queue", "launcher"))
    )
    process_bytes: int = 72 << 20  # memory of a worker before it loads its weights: interpreter, numpy and the provider's imports
    start_s: float = 5.0  # core repeats a launch whose function has not begun within this time; 99 % of the cold starts are shorter


@attrs.frozen
class Failure:
    """A function that died, or a launch that the platform dropped. ``payload`` is that of the launch, ``reason`` the platform's text.

    ``nonce`` identifies the invocation: the platform's handler passes the same text to `fsd_core.worker.handle`.
    """

    payload: bytes
    nonce: str
    reason: str


@attrs.frozen
class Failures:
    """What `InvokeDriver.failures` returns: the failures that it took, and the requests that it made to a queue service."""

    taken: Sequence[Failure] = ()
    receives: int = 0
    acks: int = 0  # requests that remove messages or make them visible again


class Launch(Protocol):
    """An asynchronous invocation that the platform accepted."""

    @property
    def text(self) -> str:
        """The reason why the launch failed, for people. Empty if no failure is known, or if the platform gives no reason."""

    def poll(self) -> Code | None:
        """The code of the failure if the platform is known to have refused or lost the launch, else `None`. Makes no request.

        If `InvokeLimits.failures` is "queue", only failures that this driver's `InvokeDriver.failures` has received are known.
        """


@runtime_checkable
class InvokeDriver(Protocol):
    """Starts functions asynchronously. A function may start late, twice, or never.

    - ``invoke`` must return without waiting for the function to end.
    - For a payload over ``payload_bytes``, ``invoke`` must raise `Code.TOO_LARGE` or `Code.INVALID`, and must not start a function.
    - For a function that does not exist, ``invoke`` must raise `Code.NOT_FOUND`, or ``Launch.poll`` must return it later.
    - If more than ``concurrency`` functions would run at once, ``invoke`` must raise `Code.THROTTLED`, or ``Launch.poll`` must return it.
    """

    service: str
    limits: InvokeLimits

    def invoke(self, function: str, payload: bytes) -> Launch:
        """Request that the platform starts ``function``, for instance `WORKER`, with ``payload``."""

    def failures(self, take: Callable[[bytes], bool]) -> Failures:
        """Take the new failures for whose payload ``take`` returns true. No later call returns these again.

        A call looks at every failure that is there, however many other failures are before it. A failure for which ``take`` returns
        false stays available to later calls and, if it is in a queue, to other processes as soon as the call returns.
        """

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method of this driver raised."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Close the connections. If `InvokeLimits.end_with_client` is true, this ends all functions that this driver started."""


# Provisioning


@attrs.frozen
class Resources:
    """An app that `Provisioner.ensure` made. Only the provider interprets ``names``. They contain no secrets: functions get them too."""

    app: str
    ranks: int
    slots: int
    names: Mapping[str, str] = attrs.field(factory=dict)


class Provisioner(Protocol):
    """Makes and removes the cloud resources of an app. A repeated call changes nothing. The app's name is part of each resource's name.

    Unlike a driver, a provisioner may make many requests in one call, and repeats requests that fail.

    - ``find`` must return what the last ``ensure`` returned. Before the first ``ensure`` and after ``destroy`` it returns `None`.
    """

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make the missing resources for at least ``slots`` slots of ``ranks`` ranks. Returns when the app can use all of them."""

    def find(self, app: str) -> Resources | None:
        """The app's resources, or `None` if the app does not exist or was made only in part. Makes nothing."""

    def sweep(self, app: str) -> Sequence[str]:
        """Remove resources that interrupted calls left behind and that ``ensure`` will not use. Returns one line for each, for people."""

    def destroy(self, app: str) -> Sequence[str]:
        """Remove all resources of the app. Returns one line for each, for people."""


class Provider(Protocol):
    """Makes a provider's drivers. Core finds the object by its entry point in the group ``fsd.providers``.

    Only clients use ``provisioner``, ``admit``, ``credentials``, ``stand_in`` and ``advice``, and only functions ``attach``.
    """

    name: str
    contract: int  # the `CONTRACT` for which the provider was written, as a number: core refuses a provider of another one

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """A provisioner with ``settings``, the provider's table in ``fsd.toml``. Raises `InputError` if a setting is wrong."""

    def attach(self, app: str) -> Resources:
        """Return the app's resources, read from the environment variables of a function. Makes no request.

        Raises `InputError` if this process is not a function of the app.
        """

    def admit(self, resources: Resources, workers: int) -> None:
        """Raise `InputError` if the app's queues do not let each of ``workers`` ranks send to all others. Makes no request."""

    def messages(self, resources: Resources, slot: int, *, direct: bool = False) -> MessageDriver:
        """A driver for the queues of ``slot`` (from 0). With ``direct``, it publishes on the way that delivers soonest.

        A driver with ``direct`` and one without must receive what the other publishes. One publish of the former may reach fewer ranks.
        """

    def objects(self, resources: Resources) -> ObjectDriver:
        """A driver for the app's object store."""

    def invoker(self, resources: Resources) -> InvokeDriver:
        """A driver that starts the app's functions."""

    def credentials(self) -> str:
        """Describe the credentials that the SDK finds, for people: the account and the source. The text contains no secrets.

        Raises the SDK's own error if it finds none. Makes only the requests that the source of the credentials needs.
        """

    def stand_in(self) -> str | None:
        """Host and port of the emulator to which environment variables direct the SDK; `None` if the SDK uses the cloud."""

    def advice(self, error: str) -> str | None:
        """Advice to the user about an error whose text is ``error``; `None` if the provider has no advice."""
