"""The policy of a function on the local Lambda: who outside its account, and which services, may invoke it. Nothing evaluates it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fsd_conformance.emulators.lambda_store import Function, ServiceError, invalid

__all__ = ["document", "removed", "statement"]

_ACTION = re.compile(r"lambda:(\*|[a-zA-Z]+)|\*")
_SID = re.compile(r"[a-zA-Z0-9_-]{1,100}")
_CONDITIONS = {
    "SourceArn": ("ArnLike", "AWS:SourceArn"),
    "SourceAccount": ("StringEquals", "AWS:SourceAccount"),
    "PrincipalOrgID": ("StringEquals", "aws:PrincipalOrgID"),
    "FunctionUrlAuthType": ("StringEquals", "lambda:FunctionUrlAuthType"),
}


def statement(function: Function, body: Mapping[str, Any]) -> dict[str, Any]:
    """The statement that AddPermission adds. Raises `ServiceError` for a malformed one, or where its StatementId exists."""
    sid, action, principal = (str(body.get(name, "")) for name in ("StatementId", "Action", "Principal"))
    if not _SID.fullmatch(sid) or not _ACTION.fullmatch(action) or not principal:
        raise invalid(f"StatementId {sid!r}, Action {action!r}, Principal {principal!r}: expected all three, as a policy writes them")
    if sid in function.statements:
        raise ServiceError(409, "ResourceConflictException", f"The statement id ({sid}) provided already exists.")
    who: Any = {"Service": principal} if principal.endswith(".amazonaws.com") else principal if principal == "*" else {"AWS": principal}
    conditions: dict[str, dict[str, str]] = {}
    for name, (operator, key) in _CONDITIONS.items():
        if name in body:
            conditions.setdefault(operator, {})[key] = str(body[name])
    found = {"Sid": sid, "Effect": "Allow", "Principal": who, "Action": action, "Resource": function.arn}
    return found | ({"Condition": conditions} if conditions else {})


def document(function: Function) -> dict[str, Any]:
    """The whole policy. Raises `ServiceError` where the function has none."""
    if not function.statements:
        raise ServiceError(404, "ResourceNotFoundException", "The resource you requested does not exist.")
    return {"Version": "2012-10-17", "Id": "default", "Statement": list(function.statements.values())}


def removed(function: Function, sid: str) -> None:
    """Remove a statement. Raises `ServiceError` where it does not exist."""
    if function.statements.pop(sid, None) is None:
        raise ServiceError(404, "ResourceNotFoundException", f"Statement {sid} is not found in resource policy.")
