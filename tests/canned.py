"""A server of this process whose answers a test makes up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from fsd_conformance.emulators.proxy import Answer, Proxy, Request, See

__all__ = ["CUT", "Answer", "Request", "answering", "said", "serving"]

CUT = None  # in the place of an answer: the connection is closed
NOBODY = "http://127.0.0.1:9"  # where nobody listens


@contextmanager
def serving(see: See) -> Iterator[str]:
    """The address of a server whose answer to each request is what ``see`` says of it, `CUT` too."""
    with closing(Proxy(NOBODY, see)) as server:
        yield server.url


@contextmanager
def answering(*answers: Answer | None) -> Iterator[tuple[str, list[Request]]]:
    """The address of a server that gives these answers, one after the other; and what was asked of it."""
    asked, left = list[Request](), list(answers)

    def see(request: Request) -> Answer | None:
        asked.append(request)
        return left.pop(0)

    with serving(see) as url:
        yield url, asked


def said(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer of JSON."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})
