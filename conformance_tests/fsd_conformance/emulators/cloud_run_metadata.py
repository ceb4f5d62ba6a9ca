"""Identity in the local Cloud Run: makes and checks tokens of service accounts, and answers like the metadata server.

A token is a JSON web token with this emulator's signature. `google.auth` requests a token like on the platform, if GCE_METADATA_HOST and
GCE_METADATA_IP hold the address of this server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsd_conformance.emulators.web import Request, Response

__all__ = ["PROJECT_NUMBER", "Issuer", "metadata", "variables"]

PROJECT_NUMBER = "123456789012"
_TOKEN_S = 3600
_FLAVOR = {"Metadata-Flavor": "Google"}
_ROOT = "/computeMetadata/v1/"
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


class Issuer:
    """Makes and reads tokens. Its key is in ``home``, so tokens stay valid after a restart."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        key = home / "token.key"
        with suppress(FileExistsError), open(key, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(secrets.token_bytes(32))
        self._secret = key.read_bytes()

    def identity(self, email: str, audience: str) -> str:
        """An ID token for an audience."""
        at = int(time.time())
        claims = {"iss": "https://accounts.google.com", "aud": audience, "iat": at, "exp": at + _TOKEN_S}
        return self._signed(claims | {"email": email, "email_verified": True, "sub": email, "azp": email})

    def access(self, email: str) -> str:
        """An access token."""
        return self._signed({"email": email, "exp": int(time.time()) + _TOKEN_S})

    def read(self, token: str) -> Mapping[str, Any] | None:
        """The claims of a valid token of this emulator, else None. Those of an access token have no "aud"."""
        head, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(head).encode()):
            return None
        claims: Mapping[str, Any] = json.loads(_decoded(head.partition(".")[2]))
        return claims if claims["exp"] > time.time() else None

    def _signed(self, claims: Mapping[str, Any]) -> str:
        head = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{head}.{self._signature(head)}"

    def _signature(self, head: str) -> str:
        return _encoded(hmac.digest(self._secret, head.encode(), hashlib.sha256))


def variables(port: int) -> dict[str, str]:
    """The variables that point `google.auth` at the metadata server on this port."""
    return dict.fromkeys(("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"), f"127.0.0.1:{port}")


def metadata(request: Request, issuer: Issuer, project: str, region: str, email: str) -> Response:
    """Answer a request to the metadata server of one service account."""
    if request.headers.get("metadata-flavor") != "Google":
        return Response(403, b"Missing Metadata-Flavor:Google header.\n")
    if request.path == "/":
        return Response(200, b"computeMetadata/\n", {**_FLAVOR, "Content-Type": "application/text"})
    found = _look_up(request, issuer, project, region, email)
    if found is None:
        return Response(404, b"not found\n", _FLAVOR)
    if isinstance(found, str):
        return Response(200, found.encode(), {**_FLAVOR, "Content-Type": "application/text"})
    return Response.of(found, headers=_FLAVOR)


def _look_up(request: Request, issuer: Issuer, project: str, region: str, email: str) -> str | dict[str, Any] | None:
    plain = {
        "project/project-id": project,
        "project/numeric-project-id": PROJECT_NUMBER,
        "instance/region": f"projects/{PROJECT_NUMBER}/regions/{region}",
        "instance/zone": f"projects/{PROJECT_NUMBER}/zones/{region}-1",
        "instance/id": "0",
        "universe/universe-domain": "googleapis.com",
    }
    path = request.path.removeprefix(_ROOT).rstrip("/") if request.path.startswith(_ROOT) else ""
    if path in plain:
        return plain[path]
    account, _, what = path.removeprefix("instance/service-accounts/").partition("/")
    if not path.startswith("instance/service-accounts/") or account not in ("default", email):
        return None
    audience = request.query.get("audience", [""])[0]
    if what == "identity":
        return issuer.identity(email, audience) if audience else None
    if what == "token":
        return {"access_token": issuer.access(email), "expires_in": _TOKEN_S, "token_type": "Bearer"}
    if what == "":
        return {"aliases": ["default"], "email": email, "scopes": _SCOPES}
    return {"email": email, "scopes": "\n".join(_SCOPES)}.get(what)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
