"""What Azure's errors mean, and the advice that users get about them."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
from azure.core import exceptions as core
from azure.identity import CredentialUnavailableError
from azure.servicebus import ServiceBusClient
from azure.servicebus import exceptions as bus
from azure.servicebus._pyamqp.error import AuthenticationException, ErrorCondition, TokenAuthFailure, TokenExpired

from azure_server import app, service_bus
from fsd_azure import PROVIDER, clients, messages
from fsd_azure.errors import advice, asking, classify
from fsd_core.driver import Code, Message, Refused


def answered(status: int, word: str = "", kind: type[core.HttpResponseError] = core.HttpResponseError) -> core.HttpResponseError:
    """As azure-core and the Resource Manager say it: the word in JSON."""
    body = json.dumps({"error": {"code": word, "message": "m"}})
    response = SimpleNamespace(status_code=status, reason="Reason", text=lambda *a, **k: body, headers={}, content_type="application/json")
    return kind(response=response)


def storage(status: int, word: str, kind: type[core.HttpResponseError] = core.HttpResponseError) -> core.HttpResponseError:
    """As azure-storage-blob says it: the word in an attribute."""
    error = kind(f"m\nErrorCode:{word}", response=SimpleNamespace(status_code=status, reason="Reason", headers={}))
    error.error_code = word  # type: ignore[attr-defined]
    return error


def link(condition: str, message: str = "m") -> bus.ServiceBusError:
    return bus.ServiceBusConnectionError(message=message, condition=condition.encode())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Refused(Code.TOO_LARGE, "x"), Code.TOO_LARGE),
        (storage(409, "BlobAlreadyExists", core.ResourceExistsError), Code.ALREADY_EXISTS),
        (storage(409, "ContainerBeingDeleted", core.ResourceExistsError), Code.UNAVAILABLE),
        (storage(409, "SomethingNew"), Code.UNAVAILABLE),
        (storage(412, "ConditionNotMet", core.ResourceModifiedError), Code.ALREADY_EXISTS),
        (storage(404, "BlobNotFound", core.ResourceNotFoundError), Code.NOT_FOUND),
        (storage(503, "ServerBusy"), Code.THROTTLED),
        (storage(503, "SomethingNew"), Code.UNAVAILABLE),
        (storage(418, "SomethingNew"), Code.UNKNOWN),
        (answered(403, "AuthorizationFailed", core.ClientAuthenticationError), Code.DENIED),
        (answered(401, "ExpiredAuthenticationToken", core.ClientAuthenticationError), Code.DENIED),
        (answered(404, "ResourceGroupNotFound", core.ResourceNotFoundError), Code.NOT_FOUND),
        (answered(409, "AnotherOperationInProgress", core.ResourceExistsError), Code.UNAVAILABLE),
        (answered(429, "TooManyRequests"), Code.THROTTLED),
        (answered(500), Code.UNAVAILABLE),
        (core.HttpResponseError("x", error=core.IncompleteReadError("x")), Code.UNAVAILABLE),
        (core.HttpResponseError("x"), Code.UNKNOWN),
        (core.ServiceRequestError("x"), Code.UNAVAILABLE),
        (core.ServiceResponseTimeoutError("x"), Code.UNAVAILABLE),
        (CredentialUnavailableError("x"), Code.DENIED),
        (bus.ServiceBusServerBusyError(condition=b"com.microsoft:server-busy"), Code.THROTTLED),
        (bus.ServiceBusQuotaExceededError(), Code.THROTTLED),
        (bus.MessagingEntityNotFoundError(), Code.NOT_FOUND),
        (bus.MessagingEntityDisabledError(), Code.UNAVAILABLE),
        (bus.ServiceBusAuthorizationError(), Code.DENIED),
        (bus.ServiceBusAuthenticationError(), Code.DENIED),
        (bus.MessageSizeExceededError(), Code.TOO_LARGE),
        (bus.MessageLockLostError(), Code.PRECONDITION),
        (bus.MessageAlreadySettled(action="complete"), Code.PRECONDITION),
        (bus.OperationTimeoutError(), Code.UNAVAILABLE),
        (bus.ServiceBusCommunicationError(), Code.UNAVAILABLE),
        (link("amqp:link:detach-forced"), Code.UNAVAILABLE),
        (link("amqp:connection:forced"), Code.UNAVAILABLE),
        (link("amqp:link:message-size-exceeded"), Code.TOO_LARGE),
        (link("amqp:unauthorized-access"), Code.DENIED),
        (link("com.microsoft:server-busy"), Code.THROTTLED),
        (link("com.microsoft:something-new"), Code.UNAVAILABLE),
        (bus.ServiceBusError("m", condition=b"com.microsoft:argument-error"), Code.INVALID),
        (bus.ServiceBusError("Handler failed: x", error=CredentialUnavailableError("x")), Code.DENIED),
        (bus.ServiceBusError("Handler failed: x", error=ConnectionRefusedError()), Code.UNAVAILABLE),
        (bus.ServiceBusError("Handler failed: x", error=TypeError()), Code.UNKNOWN),
        (ConnectionResetError(), Code.UNAVAILABLE),
        (TimeoutError(), Code.UNAVAILABLE),
        (ValueError("x"), Code.UNKNOWN),
        (KeyError("x"), Code.UNKNOWN),
    ],
)
def test_codes(error: Exception, expected: Code) -> None:
    assert classify(error) is expected


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (CredentialUnavailableError("EnvironmentCredential: Environment variables are not fully configured."), "az login"),
        (core.ClientAuthenticationError("DefaultAzureCredential failed to retrieve a token from the included credentials."), "az login"),
        (core.ClientAuthenticationError("AADSTS700082: The refresh token has expired due to inactivity."), "expired"),
        (core.ClientAuthenticationError("AADSTS700024: Client assertion is not within its valid time range."), "clock"),
        (answered(404, "SubscriptionNotFound"), "az account list"),
        (answered(403, "AuthorizationFailed"), "role"),
        (answered(409, "MissingSubscriptionRegistration"), "az provider register"),
        (storage(403, "AuthenticationFailed"), "connection-string"),
        (storage(403, "KeyBasedAuthenticationNotPermitted"), "unset AZURE_STORAGE_CONNECTION_STRING"),
        (storage(409, "ContainerBeingDeleted"), "being deleted"),
        (storage(404, "ContainerNotFound"), "'fsd destroy --provider azure', then 'fsd deploy'"),
        (bus.ServiceBusServerBusyError(), "destroy the app and deploy it with more [azure] namespaces"),
        (bus.MessageSizeExceededError(), "[azure] tier"),
        (bus.ServiceBusQuotaExceededError(message="The connection quota of the namespace is exceeded."), "too many connections"),
        (bus.ServiceBusQuotaExceededError(message="The queue is full."), "quota"),
        (bus.ServiceBusAuthenticationError(message="CBS Token authentication failed."), "connection string again"),
        (bus.ServiceBusAuthorizationError(), "role"),
        ("ClientAuthenticationError: 'Unauthorized' Content: <Error><Code>401</Code><Detail>InvalidSignature: x", "Data Owner"),
        (bus.MessagingEntityDisabledError(), "disabled"),
        (bus.MessagingEntityNotFoundError(), "fsd deploy"),
        (core.ServiceRequestError("Failed to establish a new connection"), "network"),
        ("THROTTLED: rank 3, layer 7: publish to rank 1: ServiceBusServerBusyError: please wait 2 seconds", "--channel object"),
    ],
)
def test_advice(error: Exception | str, says: str) -> None:
    told = PROVIDER.advice(error)
    assert told is not None
    assert says in told
    assert "\n" not in told


def test_no_advice() -> None:
    assert advice(storage(500, "InternalError")) is None
    assert advice(ValueError("x")) is None


def refused(status: int | bytes) -> bus.ServiceBusError:
    """As azure-servicebus says that a token was not taken: what the service said is in the inner error alone."""
    inner = TokenAuthFailure(status, b"The messaging entity 'sb://n/q' could not be found.")
    return bus.ServiceBusAuthenticationError(message=None, error=inner, condition=b"amqp:client-error")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (refused(404), Code.NOT_FOUND),
        (refused(401), Code.DENIED),
        (refused(403), Code.DENIED),
        (refused(500), Code.UNAVAILABLE),
        (refused(503), Code.UNAVAILABLE),
        (refused(418), Code.DENIED),
        (refused(ErrorCondition.ClientError), Code.UNAVAILABLE),  # the link for tokens broke
        (bus.ServiceBusAuthenticationError(error=AuthenticationException(ErrorCondition.InternalError)), Code.UNAVAILABLE),  # or never was
        (bus.ServiceBusAuthenticationError(error=TokenExpired(ErrorCondition.InternalError)), Code.UNAVAILABLE),
        (bus.ServiceBusAuthenticationError(error=AuthenticationException(b"x"), condition=b"amqp:unauthorized-access"), Code.DENIED),
    ],
)
def test_a_token_that_is_not_taken_means_what_the_service_says(error: Exception, expected: Code) -> None:
    assert classify(error) is expected


def test_what_the_service_says_of_a_token_is_told_once() -> None:
    error = asking(asking(refused(404)))
    assert str(error).count("404: The messaging entity 'sb://n/q' could not be found.") == 1
    assert str(asking(bus.ServiceBusAuthenticationError())) == str(bus.ServiceBusAuthenticationError())


def test_a_queue_that_is_gone_is_not_found_and_not_denied() -> None:
    with service_bus(namespaces=["one"]):
        driver = messages.AzureMessages(app(1, 1, namespaces="one"), 0)
        driver.publish([Message(0, b"x")])
        with clients.administration(driver._names.namespaces, 0) as admin:
            admin.delete_queue(driver._names.queue(0, 0))
        for request in (lambda: driver.receive(0, 1, 0), lambda: driver.publish([Message(0, b"x")])):
            for _ in range(2):  # a link that ended with the queue, and one that is opened anew
                with pytest.raises(bus.ServiceBusError) as caught:
                    request()
                code = driver.classify(caught.value)
            assert code is Code.NOT_FOUND
            assert "could not be found" in str(caught.value)
            assert "'fsd destroy --provider azure', then 'fsd deploy'" in (advice(f"{type(caught.value).__name__}: {caught.value}") or "")
        driver.close()


def test_no_credentials_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """azure-servicebus hides the reason within its own error."""

    class Nobody:
        def get_token(self, *scopes: str, **named: object) -> object:
            raise CredentialUnavailableError("DefaultAzureCredential failed to retrieve a token")

    with service_bus(namespaces=["one"]) as server:
        host = f"127.0.0.1:{server.ports['one'][0]}"
        made = app(1, 1, namespaces="one")
        client = partial(ServiceBusClient, host, Nobody(), use_tls=False, retry_total=0, try_timeout=20)  # type: ignore[arg-type]
        monkeypatch.setattr(messages, "service_bus", lambda hosts, number: client())
        driver = messages.AzureMessages(made, 0)
        for request in (lambda: driver.receive(0, 1, 0), lambda: driver.publish([Message(0, b"x")])):
            with pytest.raises(Exception, match="failed to retrieve a token") as caught:
                request()
            assert driver.classify(caught.value) is Code.DENIED
            assert "az login" in (advice(caught.value) or "")
        driver.close()
