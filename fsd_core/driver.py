"""The contract between core and a provider: four drivers, their limits as data, ten error codes.

A provider maps each method to one request of one service and nothing more. Retrying, batching to the limits,
encoding, deduplication, metering and time-outs are core's. Each sentence below that says *must* has a case in
``fsd_conformance``.

What holds for every driver:

- A method must raise the SDK's own error, unwrapped, and must not retry. ``classify`` must map any error to a `Code`.
- Where a service says how long to wait before the next try, the error's attribute ``retry_after_s`` may say so, in seconds.
- Drivers must be safe to call from several threads of one process at once.
- ``service`` is the service's name for people, as errors name it: "Amazon S3".
- ``native()`` returns the SDK's client, for what this contract does not cover. ``close()`` may be called twice.
- Constructing a driver may open connections; importing a provider's package must import no SDK.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

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


class Code(enum.Enum):
    """What an error means to core, whatever the service calls it."""

    NOT_FOUND = "not_found"  # the key, queue, topic or function does not exist
    ALREADY_EXISTS = "already_exists"  # a conditional create lost
    INVALID = "invalid"  # the request is malformed: sending it again cannot help
    DENIED = "denied"  # credentials are missing, expired or too weak
    THROTTLED = "throttled"  # too fast, or over a quota: later may work
    UNAVAILABLE = "unavailable"  # the service or the network failed: again may work, the effect may have happened
    TOO_LARGE = "too_large"  # over a size limit
    PRECONDITION = "precondition"  # the resource is in another state than the request needs
    DEADLINE = "deadline"  # time ran out
    UNKNOWN = "unknown"  # none of the above


class Refused(ValueError):
    """A driver's own no, before the network, to what the service would refuse: ``code`` says why."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a publish: ``body`` for the queue of ``rank``. Text-only services get ASCII bytes (see `MessageLimits.body`)."""

    rank: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """One received message; ``token`` acknowledges exactly this delivery of it."""

    token: object
    body: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """Entry ``index`` of the request was refused while others were accepted."""

    index: int
    code: Code
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """Keys in ascending order; ``next`` continues the listing, ``None`` ends it. Its content is the driver's own."""

    keys: Sequence[str]
    next: str | None


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """What a queue service takes, as data with its source. Sizes in bytes, times in seconds."""

    batch_messages: int  # entries of one publish, and tokens of one ack
    batch_bytes: int  # bodies plus overhead of a publish of several messages
    message_bytes: int  # one body; one over ``batch_bytes`` goes alone
    overhead_bytes: int  # what each entry adds to the batch
    receive_messages: int  # the largest ``limit`` of one receive
    wait_s: float  # the longest long poll
    lease_s: float  # a delivery that was not acknowledged is delivered again after this
    billing_bytes: int  # publish and receive are billed per started unit of this
    body: Literal["binary", "text"]
    source: str
    as_of: str
    # Of a service that sends before `receive` asks: so much may be delivered and not acknowledged, and then nothing more comes.
    outstanding_messages: int | None = None
    outstanding_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ObjectLimits:
    """What an object store takes, as data with its source. Sizes in bytes, times in seconds."""

    object_bytes: int  # one object
    delete_keys: int  # keys of one delete
    page_keys: int  # keys of one page
    poll_s: float  # how soon it is worth asking again for a key that was not there
    source: str
    as_of: str


@dataclass(frozen=True, slots=True)
class InvokeLimits:
    """What a function platform takes. ``None``: no limit that is known."""

    payload_bytes: int
    concurrency: int | None  # functions at once, by quota
    memory_bytes: int | None  # of one function
    timeout_s: float | None  # of one function
    source: str
    as_of: str
    end_with_client: bool = False  # functions end when the driver that started them is closed
    # Who learns that a function died. host: the function's host, which reports it by itself. queue: whoever asks `InvokeDriver.failures`,
    # each time one request of a queue service. launcher: only the process that launched it, which asks without a request.
    failures: Literal["host", "queue", "launcher"] = "host"
    process_bytes: int = 72 << 20  # of a worker before it has loaded anything: interpreter, numpy and what the provider imports
    start_s: float = 5.0  # a launch whose function has not begun by then is made again: above the slow hundredth of cold starts


@dataclass(frozen=True, slots=True)
class Resources:
    """What `Provisioner.ensure` made: names only, never secrets. ``names`` is the provider's own."""

    app: str
    ranks: int
    slots: int
    names: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class MessageDriver(Protocol):
    """The queues of one slot: one a rank, at-least-once, in no order. One call is one API request.

    - A published message must be delivered to the queue of its rank, and to no other rank or slot, at least once.
    - A delivered message must not be delivered again before ``lease_s`` passed, and must be after, unless acknowledged.
    - ``receive`` must return as soon as one message is there, and an empty sequence after ``wait_s`` if none is.
    - ``publish`` and ``ack`` must return one `Rejected` for each refused entry; the others took effect.
    - An ack of a token that is no longer valid must be harmless.
    """

    service: str
    limits: MessageLimits

    def route(self, rank: int) -> Hashable:
        """What one publish can reach: messages to ranks of equal route may share a publish."""

    def publish(self, messages: Sequence[Message]) -> Sequence[Rejected]:
        """Send 1 to ``batch_messages`` messages of one route. Over a limit: must raise an error of `Code.TOO_LARGE` or `Code.INVALID`."""

    def receive(self, rank: int, limit: int, wait_s: float) -> Sequence[Delivery]:
        """Take up to ``limit`` messages from the queue of ``rank``, waiting up to ``wait_s`` seconds for the first."""

    def ack(self, rank: int, tokens: Sequence[object]) -> Sequence[Rejected]:
        """Remove 1 to ``batch_messages`` delivered messages for good."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method raised."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Release connections. Messages stay."""


@runtime_checkable
class ObjectDriver(Protocol):
    """A key-value store with read-after-write consistency. Keys are relative, ``/``-separated ASCII, up to 512 characters.

    - A get or list that starts after a put returned must see it. A reader must see a whole object or none.
    - With ``if_absent``, exactly one of any number of concurrent puts of a key must win; the others raise `Code.ALREADY_EXISTS`.
    - ``get`` of a missing key must raise `Code.NOT_FOUND`.
    - ``list`` must return keys in ascending order, each once, over any number of pages.
    - ``delete`` of a missing key must succeed.
    """

    service: str
    limits: ObjectLimits

    def put(self, key: str, body: bytes | bytearray | memoryview, *, if_absent: bool = False) -> None:
        """Create or replace the object at ``key``; with ``if_absent``, create only."""

    def get(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes [start, end) of the object; what lies past its end is left out (so the result may be empty)."""

    def list(self, prefix: str, page: str | None = None) -> Page:
        """One page of the keys that start with ``prefix``."""

    def delete(self, keys: Sequence[str]) -> Sequence[Rejected]:
        """Remove 1 to ``delete_keys`` objects."""

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method raised."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Release connections. Objects stay."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A function that the platform saw die, or a launch that it gave up: what it was launched with, and the platform's words.

    ``nonce`` is what the platform's handler passes to `fsd_core.worker.handle` for this invocation.
    """

    payload: bytes
    nonce: str
    reason: str


class Launch(Protocol):
    """One accepted asynchronous invocation."""

    @property
    def text(self) -> str:
        """What `poll` found, in words for people; empty while it found nothing, or where the platform says no more."""

    def poll(self) -> Code | None:
        """`None` while nothing is known to be wrong; the code once the platform refused or lost the launch. Makes no request.

        Where failures are ``asked`` for, it knows what `InvokeDriver.failures` saw, taken or not.
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
        """Ask the platform to run ``function`` with ``payload``."""

    def failures(self, take: Callable[[bytes], bool]) -> Sequence[Failure]:
        """What the platform reports, see `InvokeLimits.failures`: those of whose payload ``take`` is true, which are then forgotten.

        Where they are ``asked`` for, one call is a receive of a queue service and, if it took any, an ack.
        """

    def classify(self, error: BaseException) -> Code:
        """The code of an error that a method raised."""

    def native(self) -> object:
        """The SDK's client."""

    def close(self) -> None:
        """Release connections. What this driver itself keeps running on this machine ends here."""


class Provisioner(Protocol):
    """Makes and removes what an app needs. Both ways idempotent; everything carries the app's name.

    - ``find`` must return what the last ``ensure`` returned, and `None` before the first and after ``destroy``.
    """

    def ensure(self, app: str, ranks: int, slots: int) -> Resources:
        """Make what is missing for ``slots`` slots of ``ranks`` ranks; return when usable, not when accepted."""

    def find(self, app: str) -> Resources | None:
        """What is there of the app, or `None`. Makes nothing."""

    def sweep(self, app: str) -> Sequence[str]:
        """Remove what a client that died left half made or half removed, and no ``ensure`` takes up; return it, for people to read."""

    def destroy(self, app: str) -> Sequence[str]:
        """Remove everything of the app; return what was removed, for people to read."""


class Provider(Protocol):
    """A bundle of factories, found through the entry point group ``fsd.providers``.

    ``settings`` is the provider's table of the configuration file.
    """

    name: str

    def provisioner(self, settings: Mapping[str, object]) -> Provisioner:
        """For the client."""

    def attach(self, app: str) -> Resources:
        """For a worker: what the function's own environment says about the app. No request is made."""

    def admit(self, resources: Resources, workers: int) -> None:
        """Raises `InputError`, a line, where so many workers cannot all send to each other through the app's queues. No request is made."""

    def messages(self, resources: Resources, slot: int) -> MessageDriver:
        """The queues of one slot."""

    def objects(self, resources: Resources) -> ObjectDriver:
        """The app's object store."""

    def invoker(self, resources: Resources) -> InvokeDriver:
        """What starts the app's functions: `WORKER` is always one of them."""

    def credentials(self) -> str:
        """Whose credentials the SDK's own chain finds, for people, without secrets. Raises the SDK's own error where it finds nobody's.

        No request is made but what the source of the credentials itself needs.
        """

    def stand_in(self) -> str | None:
        """Where this process's environment leads the SDK instead of to the cloud itself: an emulator's host and port, and nothing else of
        its address. `None`: nowhere else."""

    def advice(self, error: str) -> str | None:
        """What a person can do about an error whose text this is; `None` if there is nothing to say."""


WORKER = "worker"  # the function that runs `fsd_core.worker.handle`
