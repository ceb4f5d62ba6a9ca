"""What everything of an app is called: pure functions of (app, generation, slot, rank, project). No request is made.

The keys of `Resources.names`, all strings, written by `fsd_gcp.provision` and enough for every driver:

==================  ===================================================================================================
project, region     whose, and where
generation          8 hexadecimal digits, new whenever topics are made anew: an old worker finds nothing, and harms nobody
bucket, function    their names
url                 where the function's service listens
service_account     the address that the function runs as
lease_s             the subscriptions' acknowledgement deadline: whole seconds
receive             "pull" or "stream"
memory_mb, ...      whatever else provision and invoke agree on
==================  ===================================================================================================

Each rank of each slot has one topic, and one subscription of the same name: a subscription that filters is billed for what
it filters out.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator

import attrs

from fsd_core.driver import Resources

__all__ = ["Names", "bucket", "function", "generation_of", "new_generation", "service_account"]

_BUCKET_CHARS = 63
_ACCOUNT_CHARS = 30  # of a service account's id, and 6 at least


def new_generation() -> str:
    """A fresh generation."""
    return secrets.token_hex(4)


def bucket(app: str, project: str) -> str:
    """The default name of the app's bucket, at most 63 characters: a long app's name is cut and its hash added."""
    whose = re.sub(r"[^a-z0-9-]", "-", project)  # a project of an organisation's domain is DOMAIN:NAME
    return f"fsd-{_cut(app, _BUCKET_CHARS - len(f'fsd--{whose}'))}-{whose}"


def function(app: str) -> str:
    """The function that runs workers, and its service."""
    return f"fsd-{app}"


def service_account(app: str) -> str:
    """The id of the account that the function runs as, at most 30 characters, cut like `bucket`."""
    return f"fsd-{_cut(app, _ACCOUNT_CHARS - len('fsd--run'))}-run"


def _cut(app: str, most: int) -> str:
    if len(app) <= most:
        return app
    return f"{app[: most - 7].rstrip('-')}-{hashlib.sha256(app.encode()).hexdigest()[:6]}"


@attrs.frozen
class Names:
    """Topics and subscriptions of one generation of an app."""

    app: str
    project: str
    generation: str

    @staticmethod
    def of(resources: Resources) -> Names:
        """From what `fsd_gcp.provision` wrote."""
        return Names(resources.app, resources.names["project"], resources.names["generation"])

    def queue(self, slot: int, rank: int) -> str:
        """What the topic of a rank and its subscription are called."""
        return f"fsd-{self.app}-{self.generation}-{slot}-{rank}"

    def topic(self, slot: int, rank: int) -> str:
        """The topic's full name."""
        return f"projects/{self.project}/topics/{self.queue(slot, rank)}"

    def subscription(self, slot: int, rank: int) -> str:
        """The subscription's full name."""
        return f"projects/{self.project}/subscriptions/{self.queue(slot, rank)}"

    def queues(self, ranks: int, slots: int) -> Iterator[tuple[str, str]]:
        """Every rank's topic and subscription, full names."""
        for slot in range(slots):
            yield from ((self.topic(slot, rank), self.subscription(slot, rank)) for rank in range(ranks))


def generation_of(app: str, name: str) -> str | None:
    """The generation of a topic or subscription of ``app``, by its short or full name; None of any other: "fsd-a-" also starts
    the names of an app "a-b"."""
    match = re.fullmatch(rf"(?:.*/)?fsd-{re.escape(app)}-([0-9a-f]{{8}})-\d+-\d+", name)
    return match[1] if match else None
