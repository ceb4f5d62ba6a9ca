"""The table ``[aws]`` of the configuration.

=============  ============================  ====================================================================================
region         the SDK's own chain           where everything is
bucket         fsd-APP-ACCOUNT-REGION        the app's bucket; one that holds something and is not the app's is refused
role           made, and removed again       ARN of a role that you made for the function, where you may not make roles
memory_mb      1769                          memory of one function: 1,769 MB is one vCPU
timeout_s      900                           time limit of one function
concurrency    the account's                 functions of this app at once, reserved from the account's quota
lease_s        3                             a message that was delivered and not acknowledged is delivered again after this
text           "auto"                        bodies as text (true), as binary attributes (false), or what the service can do
message_kb     256                           the largest publish; above 256 a topic takes 100 ranks instead of 200
runtime        python3.12                    the function's interpreter; python3.11 is on Amazon Linux 2, the others on 2023
package        true                          false uploads no code: for an emulator that runs what is installed here
=============  ============================  ====================================================================================

FSD_AWS_PACKAGE=0 means ``package = false``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fsd_core.errors import InputError

__all__ = ["RUNTIMES", "Settings"]

RUNTIMES = ("python3.12", "python3.13", "python3.11")


def _key(default: Any, wanted: str, holds: Callable[[Any], bool]) -> Any:
    return field(default=default, metadata={"wanted": wanted, "holds": holds})


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _text(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """See the module."""

    region: str = _key("", "a region's name, for instance eu-west-1", _text(r"[a-z]{2,}(-[a-z]+)+-\d+"))
    bucket: str = _key("", "3 to 63 of a-z, 0-9 and '-', as S3 names buckets", _text(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"))
    role: str = _key("", "the ARN of a role: arn:aws:iam::ACCOUNT:role/NAME", _text(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+"))
    memory_mb: int = _key(1769, "a whole number from 128 to 10240", _whole(128, 10240))
    timeout_s: int = _key(900, "a whole number of seconds from 1 to 900", _whole(1, 900))
    concurrency: int | None = _key(None, "a whole number of at least 1", _whole(1, 1_000_000))
    lease_s: int = _key(3, "a whole number of seconds from 1 to 43200", _whole(1, 43200))
    text: bool | str = _key("auto", '"auto", true or false', lambda value: value == "auto" or isinstance(value, bool))
    message_kb: int = _key(256, "a whole number from 256 to 1024", _whole(256, 1024))
    runtime: str = _key("python3.12", f"one of {', '.join(RUNTIMES)}", lambda value: value in RUNTIMES)
    package: bool = _key(True, "true or false", lambda value: isinstance(value, bool))

    @staticmethod
    def parse(table: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> Settings:
        """Check keys, types and ranges; `InputError` names what is wrong and what would be right."""
        known = {key.name: key.metadata for key in fields(Settings)}
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                meant = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(known)}"
                raise InputError(f"[aws] {name}: unknown; {meant}")
            values[name] = int(value) if isinstance(value, float) and value.is_integer() else value  # 3.0 s is 3 s
            if not known[name]["holds"](values[name]):
                raise InputError(f"[aws] {name} = {value!r}: must be {known[name]['wanted']}")
        if environ.get("FSD_AWS_PACKAGE") == "0":
            values["package"] = False
        return Settings(**values)
