"""Reads the variables that hold connection strings, and names the part of a connection string that is malformed.

The SDKs call every fault "malformed". These checks name the part that is wrong, and never show its secret.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from fsd_core.errors import InputError
from fsd_core.providers.proxies import shown

__all__ = [
    "ADMINISTRATION",
    "SERVICE_BUS",
    "STORAGE",
    "endpoints",
    "is_address",
    "service_bus_hosts",
    "service_bus_strings",
    "storage_string",
]

SERVICE_BUS = "FSD_AZURE_SERVICE_BUS"  # one connection string for each namespace, in the order of the namespaces, separated by white space
ADMINISTRATION = "FSD_AZURE_SERVICE_BUS_ADMINISTRATION"  # HOST:PORT of each emulator's administration, in the same order
STORAGE = "AZURE_STORAGE_CONNECTION_STRING"


def service_bus_strings() -> list[str]:
    """The connection string of each namespace; an empty list where none is set. Raises `InputError`, which names the malformed part."""
    # The separator looks ahead: the text of a signature may hold spaces, too.
    strings = list(filter(None, re.split(r"(?i)\s+(?=Endpoint=)", os.environ.get(SERVICE_BUS, "").strip())))
    for number, string in enumerate(strings):
        _check_service_bus(f"{SERVICE_BUS}: connection string {number + 1} of {len(strings)}", string)
    return strings


def service_bus_hosts() -> list[str]:
    """The host of each namespace that a connection string names, with the port of an emulator. Raises `InputError`."""
    return [urlsplit(_parts(SERVICE_BUS, string)["endpoint"]).netloc for string in service_bus_strings()]


def storage_string() -> str | None:
    """The storage account's connection string; None where none is set. Raises `InputError`, which names the malformed part."""
    string = os.environ.get(STORAGE, "").strip()
    if not string:
        return None
    parts = _parts(STORAGE, string)
    if "blobendpoint" not in parts and not parts.get("accountname"):
        raise InputError(f"{STORAGE}: AccountName: missing: expected AccountName=ACCOUNT: copy the whole connection string")
    if "blobendpoint" in parts and not is_address(parts["blobendpoint"], "http", "https"):
        raise InputError(f"{STORAGE}: BlobEndpoint is {shown(parts['blobendpoint'])!r}: expected https://ACCOUNT.blob.core.windows.net")
    if parts.get("defaultendpointsprotocol", "https") not in ("http", "https"):
        raise InputError(f"{STORAGE}: DefaultEndpointsProtocol is {parts['defaultendpointsprotocol']!r}: expected https")
    if not parts.get("endpointsuffix", "core.windows.net"):
        raise InputError(f"{STORAGE}: EndpointSuffix: is empty: expected core.windows.net, or no EndpointSuffix")
    if _has_signature(STORAGE, parts):
        return string
    for name in ("AccountName", "AccountKey"):
        if not parts.get(name.lower()):
            raise InputError(f"{STORAGE}: {name}: missing: expected {name}=VALUE: copy the whole connection string")
    try:
        base64.b64decode(parts["accountkey"], validate=True)
    except binascii.Error:
        raise InputError(f"{STORAGE}: AccountKey: is not base64: copy the whole key, with the '=' at its end") from None
    return string


def endpoints() -> Iterator[str]:
    """The address in each connection string that is set, as it is written there. Raises `InputError`."""
    for string in service_bus_strings():
        yield _parts(SERVICE_BUS, string)["endpoint"]
    if storage := storage_string():
        yield _parts(STORAGE, storage).get("blobendpoint", "").partition("?")[0]


def is_address(text: str, *schemes: str) -> bool:
    """Whether ``text`` is SCHEME://HOST or SCHEME://HOST:PORT, with one of the ``schemes``."""
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check_service_bus(what: str, string: str) -> None:
    parts = _parts(what, string)
    endpoint = parts.get("endpoint", "")
    if not endpoint:
        raise InputError(f"{what}: Endpoint: missing; the string has {', '.join(parts)}: expected Endpoint=sb://HOST/ at its start")
    if not is_address(endpoint, "sb"):
        raise InputError(f"{what}: Endpoint is {shown(endpoint)!r}: expected sb://NAMESPACE.servicebus.windows.net/")
    if "entitypath" in parts:
        raise InputError(f"{what}: EntityPath: this string opens a single queue: expected the string of a whole namespace")
    if parts.get("usedevelopmentemulator", "true") != "true":
        raise InputError(f"{what}: UseDevelopmentEmulator: expected true, in small letters, or no UseDevelopmentEmulator")
    if _has_signature(what, parts):
        return
    for name in ("SharedAccessKeyName", "SharedAccessKey"):
        if not parts.get(name.lower()):
            raise InputError(f"{what}: {name}: missing: expected {name}=VALUE: copy the whole connection string")


def _parts(what: str, string: str) -> Mapping[str, str]:
    """The parts of a connection string by name; names in lower case."""
    found: dict[str, str] = {}
    for part in string.rstrip(";").split(";"):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals:
            raise InputError(f"{what}: part {len(found) + 1}: expected NAME=VALUE, with ';' between the parts")
        if name.lower() in found:
            raise InputError(f"{what}: {name}: occurs twice: expected it once; if this is more than one string, begin each with Endpoint=")
        found[name.lower()] = value.strip()
    return found


def _has_signature(what: str, parts: Mapping[str, str]) -> bool:
    """Whether the string holds a signature (SAS) instead of a key. Raises `InputError` where the signature is cut."""
    signature = parts.get("sharedaccesssignature")
    if signature is not None and not re.search(r"(^|[?& +])sig=.", signature):
        raise InputError(f"{what}: SharedAccessSignature: has no sig=: copy the whole signature, with all parts that '&' separates")
    return signature is not None
