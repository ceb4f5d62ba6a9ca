"""A test program inside a deployed function: it shows whether the function starts, how long it can run, and how the platform ends it.

A deployment calls it to check that a function is ready; the conformance suite calls it to test a platform. It accepts a key and three
bounded numbers, and never executes content that it receives.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

import attrs

from fsd_core.common import fields
from fsd_core.common.fields import integer, matching, nullable, number
from fsd_core.driver import ObjectDriver

__all__ = ["Spec", "run"]


@attrs.frozen(kw_only=True)
class Spec:
    """The arguments of the probe."""

    key: str = fields.key(matching(r"probe/[A-Za-z0-9._/-]{1,400}", "probe/ and then 1 to 400 letters, digits or characters of ._/-"))
    sleep_s: float = fields.key(number(0, 900, "seconds"), default=0.0)
    grow_mb: float = fields.key(number(0, 65536), default=0.0)  # MiB of memory that the probe holds during the sleep
    exit: int | None = fields.key(nullable(integer(0, 255)), default=None)  # the process ends with this code after the sleep


def run(spec: Mapping[str, object], objects: ObjectDriver) -> int:
    """Write the object ``key/started-<nonce>``, hold ``grow_mb`` MiB for ``sleep_s`` seconds, write ``key/ended-<nonce>``; returns 0.

    ``spec`` is the table of a `Spec`. With ``exit``, the process ends instead of writing the second object. Both objects are JSON:
    ``pid`` and ``time`` (seconds since 1970). Raises `InputError` if the spec is wrong.
    """
    probe = fields.read(Spec, spec, "probe: ")
    nonce = os.urandom(8).hex()
    _note(objects, f"{probe.key}/started-{nonce}")
    held = b"\x01" * int(probe.grow_mb * 2**20)  # no zeros: the system gives no memory to a page of zeros
    time.sleep(probe.sleep_s)
    if probe.exit is not None:
        os._exit(probe.exit)
    del held
    _note(objects, f"{probe.key}/ended-{nonce}")
    return 0


def _note(objects: ObjectDriver, key: str) -> None:
    objects.put(key, json.dumps({"pid": os.getpid(), "time": time.time()}).encode())
