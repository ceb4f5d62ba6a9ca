"""Azure's connection strings: what is wrong with one is said before anything is asked, without its secrets."""

from __future__ import annotations

from contextlib import closing

import pytest

from azure_server import KEY, env, string
from fsd_azure import PROVIDER, clients, connection_strings
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.driver import MessageDriver, ObjectDriver, Resources
from fsd_core.errors import InputError

NAMES = {"generation": "0" * 8, "namespaces": "one", "tier": "standard", "lease_s": "5", "blob_url": "http://127.0.0.1:9/a"}
APP = Resources("a", 3, 1, {**NAMES, "container": "abc"})
ACCOUNT = "AccountName=a;AccountKey=aGVsbG8="


def driver_of(variable: str, value: str) -> MessageDriver | ObjectDriver:
    """The driver that connects with what the variable says, in an environment where it is ``value``."""
    with pointed(env(**{variable: value}), POINTERS["azure"]):
        return PROVIDER.messages(APP, 0) if variable == connection_strings.SERVICE_BUS else PROVIDER.objects(APP)


@pytest.mark.parametrize(
    ("strings", "says"),
    [
        ("Endpoint=sb://a.servicebus.windows.net/;SharedAccessKeyName=;SharedAccessKey=k", "1 of 1: SharedAccessKeyName: missing"),
        ("Endpoint=sb://a/;SharedAccessKeyName=n", "SharedAccessKey: missing"),
        (f"Endpoint=https://a.servicebus.windows.net/;{KEY}", "Endpoint is 'https://a.servicebus.windows.net/': expected sb://"),
        (KEY, "Endpoint: missing; the string has sharedaccesskeyname, sharedaccesskey"),
        (f'"Endpoint=sb://a/;{KEY}"', 'Endpoint: missing; the string has "endpoint'),
        (f"Endpoint=sb://a:99999/;{KEY}", "Endpoint"),
        (f"Endpoint=sb://a/;{KEY};EntityPath=q", "EntityPath"),
        (f"Endpoint=sb://a/;{KEY};UseDevelopmentEmulator=True", "UseDevelopmentEmulator: expected true"),
        ("Endpoint=sb://a/;SharedAccessKeyName=n;hunter2", "part 3: expected NAME=VALUE"),
        ("Endpoint=sb://a.servicebus.windows.net/;SharedAccessSignature=", "SharedAccessSignature: has no sig="),
        (f"{KEY};Endpoint=sb://a/\n{KEY};Endpoint=sb://b/", "occurs twice"),
        (f"Endpoint=sb://a/;{KEY}\nEndpoint=sb://b/;{KEY}", "2 connection strings: expected 1, one for each namespace: one"),
    ],
)
def test_malformed_strings_of_service_bus(strings: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        driver_of(connection_strings.SERVICE_BUS, strings)
    assert says in str(caught.value)
    assert str(caught.value).startswith(connection_strings.SERVICE_BUS)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("string", "says"),
    [
        ("AccountKey=aGVsbG8=", "AccountName: missing"),
        ("AccountName=a", "AccountKey: missing"),
        ("AccountName=a;AccountKey=hunter2", "AccountKey: is not base64"),
        ("AccountName=a;hunter2", "part 2: expected NAME=VALUE"),
        (f"{ACCOUNT};DefaultEndpointsProtocol=ftp", "DefaultEndpointsProtocol is 'ftp': expected https"),
        (f"{ACCOUNT};BlobEndpoint=a.blob.core.windows.net?sig=hunter2", "BlobEndpoint is 'a.blob.core.windows.net': expected https://"),
        (f"{ACCOUNT};EndpointSuffix=", "EndpointSuffix: is empty: expected core.windows.net"),
        ("BlobEndpoint=https://h/;SharedAccessSignature=x", "SharedAccessSignature: has no sig="),
    ],
)
def test_malformed_strings_of_storage(string: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        driver_of(connection_strings.STORAGE, string)
    assert str(caught.value).startswith(f"{connection_strings.STORAGE}: {says}")
    assert "hunter2" not in str(caught.value)


SIGNED = "Endpoint=sb://a.servicebus.windows.net;SharedAccessSignature=SharedAccessSignature sr=a&sig=b%3D&se=9&skn=n"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (connection_strings.SERVICE_BUS, f"Endpoint=sb://a.servicebus.windows.net/;{KEY}=;"),
        (connection_strings.SERVICE_BUS, SIGNED.replace(" ", "+")),
        (connection_strings.SERVICE_BUS, string(9) + ";"),
        (connection_strings.STORAGE, f"DefaultEndpointsProtocol=https;{ACCOUNT};EndpointSuffix=core.windows.net"),
        (connection_strings.STORAGE, f"{ACCOUNT};"),
        (connection_strings.STORAGE, "BlobEndpoint=https://a.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x%3D"),
        (connection_strings.STORAGE, "BlobEndpoint=https://own.example.org/;SharedAccessSignature=sv=1&sig=x%3D"),
    ],
)
def test_strings_that_are_good(variable: str, value: str) -> None:
    with closing(driver_of(variable, value)):
        pass


@pytest.mark.parametrize("between", [" ", "\n", "\n\n  "])
def test_strings_with_signatures_are_told_apart(monkeypatch: pytest.MonkeyPatch, between: str) -> None:
    """A signature has a space in it, as there is between strings."""
    one, two = (
        f"Endpoint=sb://{name}.servicebus.windows.net/;SharedAccessSignature=SharedAccessSignature sr=sb%3a%2f%2f{name}&sig=x%3d&se=9&skn=k"
        for name in ("one", "two")
    )
    monkeypatch.setenv(connection_strings.SERVICE_BUS, f" {one}{between}{two.replace('Endpoint', 'endpoint')} ")
    monkeypatch.delenv(connection_strings.ADMINISTRATION, raising=False)
    assert connection_strings.service_bus_hosts() == ["one.servicebus.windows.net", "two.servicebus.windows.net"]
    clients.service_bus(("one", "two"), 1).close()
    clients.administration(("one", "two"), 1).close()
