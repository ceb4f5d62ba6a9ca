"""Credentials and connection strings, as all of this adapter uses them: one attempt a request, pools for core's threads.

Where a connection string is set, it is used, and its parts are looked at first: the SDKs say of any fault no more than "malformed".
Otherwise azure-identity's DefaultAzureCredential: environment, managed identity, `az login`. Nothing is made at import.
"""

from __future__ import annotations

import base64
import binascii
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fsd_core.errors import InputError
from fsd_core.providers.proxies import shown

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusClient
    from azure.servicebus.management import ServiceBusAdministrationClient
    from azure.storage.blob import ContainerClient

__all__ = [
    "ADMINISTRATION",
    "SERVICE_BUS",
    "STORAGE",
    "administration",
    "attempts",
    "container",
    "credential",
    "endpoints",
    "service_bus",
    "service_bus_strings",
    "storage_string",
]

SERVICE_BUS = "FSD_AZURE_SERVICE_BUS"  # a connection string for each namespace, in their order, with white space between them
ADMINISTRATION = "FSD_AZURE_SERVICE_BUS_ADMINISTRATION"  # likewise host:port of each emulator, which administers queues at another port
STORAGE = "AZURE_STORAGE_CONNECTION_STRING"
CONNECT_S, READ_S = 5.0, 60.0
OPEN_S = 20.0  # until a link can be used: a connection, a token, the link
POOL = 32  # connections to one host: core's 16 threads, and room; they are opened when needed
logging.getLogger("azure").addHandler(logging.NullHandler())  # without any, its warnings of what is raised anyway go to people
_NOT_SET_UP = re.compile(r"authentication unavailable|not installed|could not be found|requires the|package is required")
_READ_BYTES = 1 << 18  # by the SDK's own 4 KB, 1 MB takes twice the processor time
_WHOLE = 5000 << 20  # what goes in one request, and comes in one: everything


def service_bus(hosts: tuple[str, ...], number: int) -> ServiceBusClient:
    """A client of one namespace, which opens no connection. `InputError`: its connection string is malformed, or there is none."""
    from azure.servicebus import ServiceBusClient

    told: dict[str, Any] = {"retry_total": 0, "try_timeout": OPEN_S}
    strings = _strings(hosts)
    if not strings:
        return ServiceBusClient(hosts[number], credential(), **told)
    return ServiceBusClient.from_connection_string(strings[number], **told)


def _strings(hosts: tuple[str, ...]) -> list[str]:
    strings = service_bus_strings()
    if strings and len(strings) != len(hosts):
        raise InputError(f"{SERVICE_BUS}: {len(strings)} connection strings: the app has {len(hosts)} namespaces, {', '.join(hosts)}")
    return strings


def administration(hosts: tuple[str, ...], number: int) -> ServiceBusAdministrationClient:
    """What makes and removes the queues of one namespace. `InputError` like `service_bus`."""
    from azure.core.pipeline.transport import RequestsTransport
    from azure.servicebus.management import ServiceBusAdministrationClient

    class Plain(RequestsTransport):  # type: ignore[misc]  # to mypy its base is Any
        """An emulator has no TLS, of which the SDK knows here nothing."""

        def send(self, request: Any, **settings: Any) -> Any:
            request.url = request.url.replace("https://", "http://", 1)
            return super().send(request, **settings)

    strings = _strings(hosts)
    if not strings:
        return ServiceBusAdministrationClient(hosts[number], credential(), retry_total=0)
    transport, string = RequestsTransport, strings[number]
    if addresses := os.environ.get(ADMINISTRATION, "").split():
        if len(addresses) != len(hosts):
            raise InputError(f"{ADMINISTRATION}: {len(addresses)} addresses: the app has {len(hosts)} namespaces")
        if not all(_address(f"http://{each}", "http") for each in addresses):
            raise InputError(f"{ADMINISTRATION}={shown(' '.join(addresses))}: expected HOST:PORT for each namespace")
        transport, string = Plain, re.sub(r"(?i)(endpoint=sb://)[^/;]*", rf"\g<1>{addresses[number]}", string)
    told = transport(connection_timeout=CONNECT_S, read_timeout=READ_S)
    return ServiceBusAdministrationClient.from_connection_string(string, transport=told, retry_total=0)


def container(url: str, name: str) -> ContainerClient:
    """A client of one container, of the storage account at ``url``, or of the connection string's. `InputError`: that is malformed."""
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ContainerClient
    from requests import Session
    from requests.adapters import HTTPAdapter

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=POOL, max_retries=0))
    transport = RequestsTransport(
        session=session,
        session_owner=True,
        connection_timeout=CONNECT_S,
        read_timeout=READ_S,
        connection_data_block_size=_READ_BYTES,
    )
    told: dict[str, Any] = {"transport": transport, "retry_total": 0, "max_single_put_size": _WHOLE, "max_single_get_size": _WHOLE}
    if string := storage_string():
        return ContainerClient.from_connection_string(string, name, **told)
    if url.startswith("http://"):
        raise InputError(f"{STORAGE}: is not set: must be, to use {url}, an emulator, which takes no login")
    return ContainerClient(url, name, credential(), **told)


def credential() -> Any:
    """The SDK's own chain: found once, and again when the variables that name it change. It keeps tokens, and takes many threads."""
    return _credential(frozenset((name, value) for name, value in os.environ.items() if name.startswith(("AZURE_", "IDENTITY_"))))


@functools.lru_cache(maxsize=4)
def _credential(environment: frozenset[tuple[str, str]]) -> Any:
    from azure.identity import DefaultAzureCredential

    try:
        return DefaultAzureCredential()
    except (OSError, ValueError) as error:  # of what EnvironmentCredential reads, of which it does not say where it stands
        names = ("AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_AUTHORITY_HOST", "AZURE_TENANT_ID")
        given = {name: os.environ[name] for name in names if os.environ.get(name)}
        named = [name for name, value in given.items() if value in str(error)] or given
        told = ", ".join(f"{name}={given[name]}" for name in named)
        raise InputError(f"{told or 'Azure credentials'}: {getattr(error, 'strerror', None) or error}") from error


def attempts(text: str) -> str:
    """What is worth knowing, in a line, of what DefaultAzureCredential says of its many credentials: not those that nobody set up."""
    tried = re.findall(r"^\t(\w+): (.*?)(?=\n\t|\nTo mitigate|\Z)", text, re.DOTALL | re.MULTILINE)
    told = [f"{name}: {' '.join(said.split())}" for name, said in tried if not _NOT_SET_UP.search(said)]
    names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
    given = [name for name in names if os.environ.get(name)]
    if given and "AZURE_FEDERATED_TOKEN_FILE" not in os.environ and "Environment variables are not fully configured" in text:
        told.insert(0, f"EnvironmentCredential: {' and '.join(given)} without {' and '.join(sorted({*names} - {*given}))}")
    return "; ".join(told) or "DefaultAzureCredential finds none"


def service_bus_strings() -> list[str]:
    """The namespaces' connection strings; none: credentials are used. `InputError` names the part that is wrong, never its secret."""
    strings = list(filter(None, re.split(r"(?i)\s+(?=Endpoint=)", os.environ.get(SERVICE_BUS, "").strip())))  # a signature has a space, too
    for number, string in enumerate(strings):
        what = f"{SERVICE_BUS}: connection string {number + 1} of {len(strings)}"
        parts = _parts(what, string)
        endpoint = parts.get("endpoint", "")
        if not endpoint:
            raise InputError(f"{what}: Endpoint: missing; there is {', '.join(parts)}")
        if not _address(endpoint, "sb"):
            raise InputError(f"{what}: Endpoint is {shown(endpoint)!r}: must be sb://NAMESPACE.servicebus.windows.net/")
        if "entitypath" in parts:
            raise InputError(f"{what}: EntityPath: this one opens a single queue: must be one of the whole namespace")
        if parts.get("usedevelopmentemulator", "true") != "true":
            raise InputError(f"{what}: UseDevelopmentEmulator: must be true, in small letters, or not there")
        if _signed(what, parts):
            continue
        for name in ("SharedAccessKeyName", "SharedAccessKey"):
            if not parts.get(name.lower()):
                raise InputError(f"{what}: {name}: missing")
    return strings


def storage_string() -> str | None:
    """The storage account's connection string; None: credentials are used. `InputError` like `service_bus_strings`."""
    string = os.environ.get(STORAGE, "").strip()
    if not string:
        return None
    parts = _parts(STORAGE, string)
    if "blobendpoint" not in parts and not parts.get("accountname"):
        raise InputError(f"{STORAGE}: AccountName: missing")
    if "blobendpoint" in parts and not _address(parts["blobendpoint"], "http", "https"):
        raise InputError(f"{STORAGE}: BlobEndpoint is {shown(parts['blobendpoint'])!r}: must be https://ACCOUNT.blob.core.windows.net")
    if parts.get("defaultendpointsprotocol", "https") not in ("http", "https"):
        raise InputError(f"{STORAGE}: DefaultEndpointsProtocol is {parts['defaultendpointsprotocol']!r}: must be https")
    if not parts.get("endpointsuffix", "core.windows.net"):
        raise InputError(f"{STORAGE}: EndpointSuffix: is empty: must be core.windows.net, or not there")
    if _signed(STORAGE, parts):
        return string
    for name in ("AccountName", "AccountKey"):
        if not parts.get(name.lower()):
            raise InputError(f"{STORAGE}: {name}: missing")
    try:
        base64.b64decode(parts["accountkey"], validate=True)
    except binascii.Error:
        raise InputError(f"{STORAGE}: AccountKey: is not base64: copy it whole, with the '=' at its end") from None
    return string


def endpoints() -> Iterator[str]:
    """The addresses that the connection strings name, as they are there."""
    for string in (*service_bus_strings(), storage_string() or ""):
        parts = _parts("", string) if string else {}
        yield parts.get("endpoint") or parts.get("blobendpoint", "").partition("?")[0]


def _parts(what: str, string: str) -> Mapping[str, str]:
    """A connection string's parts by their names in small letters."""
    found: dict[str, str] = {}
    for part in string.rstrip(";").split(";"):
        name, is_there, value = part.partition("=")
        if not is_there:
            raise InputError(f"{what}: part {len(found) + 1}: must be NAME=VALUE, with ';' between the parts")
        if name.strip().lower() in found:
            raise InputError(f"{what}: {name.strip()}: is there twice; of several strings each begins with Endpoint=")
        found[name.strip().lower()] = value.strip()
    return found


def _signed(what: str, parts: Mapping[str, str]) -> bool:
    """Whether it has a signature instead of a key."""
    signature = parts.get("sharedaccesssignature")
    if signature is not None and not re.search(r"(^|[?& +])sig=.", signature):
        raise InputError(f"{what}: SharedAccessSignature: has no sig=: copy it whole, with all between its '&'")
    return signature is not None


def _address(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
