"""Makes the SDK's clients for the whole adapter. A client makes one attempt for each request, and has connections for all threads of
fsd_core.

A client uses a connection string if one is set (`fsd_azure.connection_strings`), otherwise azure-identity's DefaultAzureCredential:
environment, managed identity, `az login`. The import makes no client.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from typing import TYPE_CHECKING, Any

from fsd_azure.connection_strings import ADMINISTRATION, SERVICE_BUS, STORAGE, is_address, service_bus_strings, storage_string
from fsd_core.errors import InputError
from fsd_core.providers.proxies import shown

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusClient
    from azure.servicebus.management import ServiceBusAdministrationClient
    from azure.storage.blob import ContainerClient

__all__ = [
    "administration",
    "attempts",
    "container",
    "credential",
    "service_bus",
]

CONNECT_S, READ_S = 5.0, 60.0
EMULATOR_READ_S = 300.0  # an emulator shares the cores of this machine: on a busy one, a delete of 256 objects may take minutes
OPEN_S = 20.0  # time limit for opening a link: the connection, the token, and the link itself
POOL = 32  # connections to one host: for fsd_core's 16 threads, and some more; opened when needed
logging.getLogger("azure").addHandler(logging.NullHandler())  # without it Python prints warnings of errors that the SDK also raises
_NOT_SET_UP = re.compile(r"authentication unavailable|not installed|could not be found|requires the|package is required")
_READ_BYTES = 1 << 18  # with the SDK's own 4 KB, reading 1 MB takes twice the processor time
_WHOLE = 5000 << 20  # the largest object: one request moves it whole


def service_bus(hosts: tuple[str, ...], number: int) -> ServiceBusClient:
    """A client of namespace ``number`` of ``hosts``. Opens no connection.

    Raises `InputError` where a connection string is malformed, or where the number of strings differs from the number of namespaces.
    """
    from azure.servicebus import ServiceBusClient

    options: dict[str, Any] = {"retry_total": 0, "try_timeout": OPEN_S}
    strings = _strings(hosts)
    if not strings:
        return ServiceBusClient(hosts[number], credential(), **options)
    return ServiceBusClient.from_connection_string(strings[number], **options)


def _strings(hosts: tuple[str, ...]) -> list[str]:
    strings = service_bus_strings()
    if strings and len(strings) != len(hosts):
        raise InputError(
            f"{SERVICE_BUS}: {len(strings)} connection strings: expected {len(hosts)}, one for each namespace: {', '.join(hosts)}"
        )
    return strings


def administration(hosts: tuple[str, ...], number: int) -> ServiceBusAdministrationClient:
    """The client that makes and removes the queues of namespace ``number`` of ``hosts``. Raises `InputError` like `service_bus`."""
    from azure.core.pipeline.transport import RequestsTransport
    from azure.servicebus.management import ServiceBusAdministrationClient

    class Plain(RequestsTransport):  # type: ignore[misc]  # to mypy its base is Any
        """Sends requests as plain HTTP: an emulator has no TLS, and the SDK's administration client always uses https."""

        def send(self, request: Any, **settings: Any) -> Any:
            request.url = request.url.replace("https://", "http://", 1)
            return super().send(request, **settings)

    strings = _strings(hosts)
    if not strings:
        return ServiceBusAdministrationClient(hosts[number], credential(), retry_total=0)
    transport, string = RequestsTransport, strings[number]
    if addresses := os.environ.get(ADMINISTRATION, "").split():
        if len(addresses) != len(hosts):
            raise InputError(f"{ADMINISTRATION}: {len(addresses)} addresses: expected one for each of the app's {len(hosts)} namespaces")
        if not all(is_address(f"http://{each}", "http") for each in addresses):
            raise InputError(f"{ADMINISTRATION}={shown(' '.join(addresses))}: expected HOST:PORT for each namespace")
        transport, string = Plain, re.sub(r"(?i)(endpoint=sb://)[^/;]*", rf"\g<1>{addresses[number]}", string)
    made = transport(connection_timeout=CONNECT_S, read_timeout=READ_S)
    return ServiceBusAdministrationClient.from_connection_string(string, transport=made, retry_total=0)


def container(url: str, name: str) -> ContainerClient:
    """A client of the container ``name``: in the account of the connection string if one is set, otherwise in the account at ``url``.

    Raises `InputError` where the connection string is malformed, or missing for an emulator.
    """
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
        read_timeout=EMULATOR_READ_S if url.startswith("http://") else READ_S,
        connection_data_block_size=_READ_BYTES,
    )
    options: dict[str, Any] = {"transport": transport, "retry_total": 0, "max_single_put_size": _WHOLE, "max_single_get_size": _WHOLE}
    if string := storage_string():
        return ContainerClient.from_connection_string(string, name, **options)
    if url.startswith("http://"):
        raise InputError(f"{STORAGE}: is not set: expected the connection string of {url}, an emulator, which takes no login")
    return ContainerClient(url, name, credential(), **options)


def credential() -> Any:
    """DefaultAzureCredential. It is made once, and again after its variables changed. It caches tokens and is thread-safe.

    Raises `InputError` where a variable names a file or a value that the SDK cannot use.
    """
    return _credential(frozenset((name, value) for name, value in os.environ.items() if name.startswith(("AZURE_", "IDENTITY_"))))


@functools.lru_cache(maxsize=4)
def _credential(environment: frozenset[tuple[str, str]]) -> Any:
    from azure.identity import DefaultAzureCredential

    try:
        return DefaultAzureCredential()
    except (OSError, ValueError) as error:  # EnvironmentCredential does not name the variable that it read
        names = ("AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_AUTHORITY_HOST", "AZURE_TENANT_ID")
        given = {name: os.environ[name] for name in names if os.environ.get(name)}
        named = [name for name, value in given.items() if value in str(error)] or given
        shown_values = ", ".join(f"{name}={given[name]}" for name in named)
        raise InputError(f"{shown_values or 'Azure credentials'}: {getattr(error, 'strerror', None) or error}") from error


def attempts(text: str) -> str:
    """One line from the long text in which DefaultAzureCredential lists its attempts. The line leaves out kinds of credentials that are not
    set up.
    """
    tried = re.findall(r"^\t(\w+): (.*?)(?=\n\t|\nTo mitigate|\Z)", text, re.DOTALL | re.MULTILINE)
    failed = [f"{name}: {' '.join(words.split())}" for name, words in tried if not _NOT_SET_UP.search(words)]
    names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
    given = [name for name in names if os.environ.get(name)]
    if given and "AZURE_FEDERATED_TOKEN_FILE" not in os.environ and "Environment variables are not fully configured" in text:
        failed.insert(0, f"EnvironmentCredential: {' and '.join(given)} without {' and '.join(sorted({*names} - {*given}))}")
    return "; ".join(failed) or "DefaultAzureCredential finds none"
