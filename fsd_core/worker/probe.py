"""A bounded instrument that runs inside a deployed function: shows that it starts, how long it lives, how it dies.

Deployment asks it whether a function is ready; the conformance suite asks it how a platform behaves. It takes four
numbers and runs nothing that it was sent.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping

from fsd_core.driver import ObjectDriver
from fsd_core.errors import InputError

__all__ = ["run"]

_KEY = re.compile(r"probe/[A-Za-z0-9._/-]{1,400}")
_SLEEP_S = 900.0
_GROW_MB = 65536.0


def run(spec: Mapping[str, object], objects: ObjectDriver) -> int:
    """Write ``key/started-<nonce>``, hold ``grow_mb`` MiB for ``sleep_s`` seconds, write ``key/ended-<nonce>``; returns 0.

    ``spec``: ``key`` (starts with ``probe/``), and where wanted ``sleep_s`` (0 to 900), ``grow_mb`` (0 to 65536), and
    ``exit`` (0 to 255, or null), with which the process ends at once with that code instead of writing the second object.
    Both objects are JSON: ``pid`` and ``time`` (seconds since 1970). Raises `InputError` on any other spec.
    """
    key, sleep_s, grow_mb, code = _checked(spec)
    nonce = secrets.token_hex(8)
    _note(objects, f"{key}/started-{nonce}")
    held = b"\x01" * int(grow_mb * 2**20)  # not zeros: those would be pages that the system never hands out
    time.sleep(sleep_s)
    if code is not None:
        os._exit(code)
    del held
    _note(objects, f"{key}/ended-{nonce}")
    return 0


def _note(objects: ObjectDriver, key: str) -> None:
    objects.put(key, json.dumps({"pid": os.getpid(), "time": time.time()}).encode())


def _checked(spec: Mapping[str, object]) -> tuple[str, float, float, int | None]:
    if unknown := sorted(map(str, spec.keys() - {"key", "sleep_s", "grow_mb", "exit"})):
        raise InputError(f"probe: unknown {', '.join(unknown)}: key, sleep_s, grow_mb and exit are known")
    key = spec.get("key")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InputError(f"probe: key {key!r}: must start with probe/ and hold letters, digits and ._/- only")
    code = spec.get("exit")
    if code is not None and (not isinstance(code, int) or isinstance(code, bool) or not 0 <= code <= 255):
        raise InputError(f"probe: exit {code!r}: must be 0 to 255, or null")
    return key, _number(spec, "sleep_s", _SLEEP_S), _number(spec, "grow_mb", _GROW_MB), code


def _number(spec: Mapping[str, object], name: str, most: float) -> float:
    value = spec.get(name, 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise InputError(f"probe: {name} {value!r}: must be a number from 0 to {most:g}")
    return float(value)
