"""Four lists of Service Bus's features: implemented in this emulator, passed on without effect, not checked, refused.

A feature that would change the service's behaviour and is not implemented is refused, never ignored. So is a property, field, filter,
operation or parameter that is in none of the lists. Each line is "name: details", and a test compares each with the emulator. A refusal has
the service's condition or status where the service has one, else amqp:not-implemented or 501.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["CARRIED", "CLAIMED", "REFUSED", "UNCHECKED"]

CLAIMED: Sequence[str] = (
    "queues: send, receive in order, peek-lock and receive-and-delete, credit and drain, complete, abandon, defer, dead-letter",
    "locks: renewal, expiry, redelivery up to MaxDeliveryCount; the lock's token in the delivery annotations, its end in the message's",
    "detached links: an outcome for their deliveries settles nothing; $management can still use the lock",
    "time: a message's and a queue's time to live, dead letters for it, x-opt-scheduled-enqueue-time, cancelling",
    "batches: message format 0x80013700, all or none",
    "annotations: a sender's own message and delivery annotations come with the message",
    "sizes: of messages, batches and queues, by tier",
    "throttle: the Standard tier's credits, with --throttle",
    "tokens: a token for an entity that does not exist is refused with 404",
    "$management: peek-message, renew-lock, update-disposition, receive-by-sequence-number, schedule-message, cancel-scheduled-message",
    "topics: of the configuration file, with subscriptions that have no rules, correlation filters or a rule that is always true",
    "administration: queues are made, changed, listed in pages, read and deleted; the namespace is read",
)

CARRIED: Sequence[str] = (  # passed to the receiver; on the supported queues the service does nothing else with them
    "durable, priority: of the header",
    "group-id: the session's id, on a queue without sessions; reply-to-group-id likewise",
    "x-opt-partition-key: on a queue without partitions",
    "message-id: any number of times, on a queue without duplicate detection",
    "footer: of a message",
)

UNCHECKED: Sequence[str] = (
    "tokens: their signature, claims and expiry; so AuthorizationRules have no effect",
    "api-version, enrich: of the administration; every version is answered alike",
    "server-timeout, tracking-id, associated-link-name: of requests to $management",
    "link properties that change nothing: com.microsoft:timeout, com.microsoft:receiver-name, com.microsoft:entity-type",
    "max-message-size: of a receiving link; larger messages are delivered, too",
)

REFUSED: Sequence[str] = (
    "sessions: a session filter, RequiresSession, session-id in a request, operations on sessions",
    "duplicate detection: RequiresDuplicateDetection",
    "forwarding: ForwardTo, ForwardDeadLetteredMessagesTo",
    "partitions: EnablePartitioning",
    "express queues: EnableExpress",
    "anonymous access: IsAnonymousAccessible",
    "queues that delete themselves: AutoDeleteOnIdle",
    "queues that are not active: Status",
    "unknown properties: of a queue or topic, in the file and in the administration",
    "SQL rules: their subscription is left out, and an attach to it gets the reason",
    "rule actions: their subscription is left out, too",
    "administration of topics: of their subscriptions and rules, too",
    "conditions: If-Match with anything but *, If-None-Match, If-Modified-Since, If-Unmodified-Since",
    "query parameters: except those of pages, api-version and enrich",
    "transactions: a coordinator, a delivery or an outcome with the state of one",
    "sending via another queue: x-opt-via-partition-key, via-partition-key, com.microsoft:transfer-destination-address",
    "filters: of a source",
    "browsing links: distribution-mode copy",
    "dynamic nodes: of a source or a target",
    "default outcome: of a source",
    "resumed deliveries: an attach with unsettled ones, a transfer that resumes",
    "capabilities: that a link desires",
    "link properties: except those named above",
    "absolute-expiry-time: without a time to live, which is the only one that counts",
    "changed properties: with an outcome that abandons, defers or dead-letters, and properties-to-modify in a request",
    "operations of $management: all except those named above; for topics all",
    "fields of requests to $management: such as omit-message-body",
    "message formats: except 0 and the batch's",
    "outcomes: except accepted, rejected, released, modified",
    "SASL mechanisms: except ANONYMOUS and MSSBCBS",
    "sending to a subscription or to dead letters: and receiving from a topic",
)
