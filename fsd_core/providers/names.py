"""The parts of the names of an app's resources that all clouds share: pure functions, which make no request."""

from __future__ import annotations

import hashlib
import re
import secrets

__all__ = ["MARK_CHARS", "generation_of", "mark", "new_generation", "outdated", "queue_name", "shortened"]

MARK_CHARS = 6
# What follows the generation: a slot with a rank or with the number of a topic ("0-3", "0-t1"), or one word ("failed"). Two words would
# also fit names of another app: "fsd-a-" begins the names of an app "a-b", too.
_REST = r"(\d+-t?\d+|[a-z]+)"


def new_generation() -> str:
    """A new random generation: 8 hexadecimal digits."""
    return secrets.token_hex(4)


def queue_name(app: str, generation: str, *parts: object) -> str:
    """The name of a queue or topic of one generation of an app. `generation_of` reads it."""
    return "-".join(["fsd", app, generation, *map(str, parts)])


def generation_of(app: str, name: str) -> str | None:
    """The generation in the name of a queue or topic of ``app``, or in its path, URL or ARN; `None` if it belongs to another app."""
    match = re.fullmatch(rf"fsd-{re.escape(app)}-([0-9a-f]{{8}})-{_REST}", re.split("[/:]", name)[-1])
    return match[1] if match else None


def outdated(app: str, name: str, keep: str | None) -> bool:
    """Whether ``name`` names a queue or topic of ``app`` whose generation is not ``keep``. With ``keep`` `None`: of any generation."""
    return generation_of(app, name) not in (None, keep)


def mark(text: str) -> str:
    """6 hexadecimal digits of a hash of ``text``: different names stay different after they were cut."""
    return hashlib.sha256(text.encode()).hexdigest()[:MARK_CHARS]


def shortened(app: str, room: int) -> str:
    """The app's name in at most ``room`` characters: a longer name is cut, and a hyphen and its `mark` are appended."""
    return app if len(app) <= room else f"{app[: room - MARK_CHARS - 1].rstrip('-')}-{mark(app)}"
