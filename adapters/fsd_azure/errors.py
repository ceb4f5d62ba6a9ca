"""The codes of Azure's errors: one table for the services' error codes and HTTP statuses, one for the SDKs' exceptions.

Blob Storage and the Resource Manager answer with an error code. Service Bus answers with an AMQP condition, which azure-servicebus turns
into an exception class or leaves in the text. This module does not import azure-servicebus: the object channel's workers do not need it.
"""

from __future__ import annotations

import re
from concurrent.futures import CancelledError
from typing import TypeVar

from azure.core import exceptions as sdk

from fsd_core.driver import Code
from fsd_core.providers.advice import CLOCK, PROXY, advise
from fsd_core.providers.codes import Codes

__all__ = ["CODES", "advice", "asking", "classify"]

E = TypeVar("E", bound=BaseException)
_WORDS = {  # error codes, AMQP conditions, and the names of classes of azure.servicebus.exceptions
    Code.THROTTLED: """ServerBusy TooManyRequests IngressExceedsAccountLimit EgressExceedsAccountLimit
        OperationsPerSecondExceedsAccountLimit SubscriptionRequestsThrottled ResourceRequestsThrottled QuotaExceeded
        com.microsoft:server-busy amqp:resource-limit-exceeded com.microsoft:resource-limit-exceeded
        ServiceBusServerBusyError ServiceBusQuotaExceededError""",
    Code.NOT_FOUND: """BlobNotFound ContainerNotFound ResourceNotFound ResourceGroupNotFound NotFound SubscriptionNotFound
        EntityNotFound amqp:not-found com.microsoft:entity-not-found com.microsoft:message-not-found
        MessagingEntityNotFoundError MessageNotFoundError""",
    Code.ALREADY_EXISTS: """BlobAlreadyExists ContainerAlreadyExists ResourceAlreadyExists EntityAlreadyExists ConditionNotMet
        com.microsoft:entity-already-exists MessagingEntityAlreadyExistsError""",  # 409 or 412: a put with if_absent of a key that exists
    Code.DENIED: """AuthenticationFailed AuthorizationFailed AuthorizationFailure AuthorizationPermissionMismatch
        AuthorizationSourceIPMismatch AuthorizationProtocolMismatch InvalidAuthenticationInfo InvalidAuthenticationToken
        InvalidAuthenticationTokenTenant NoAuthenticationInformation ExpiredAuthenticationToken InsufficientAccountPermissions
        AccountIsDisabled KeyBasedAuthenticationNotPermitted PublicAccessNotPermitted LinkedAuthorizationFailed
        amqp:unauthorized-access com.microsoft:auth-failed ServiceBusAuthorizationError""",
    Code.UNAVAILABLE: """InternalError InternalServerError OperationTimedOut ContainerBeingDeleted ContainerDisabled ServiceUnavailable
        GatewayTimeout RequestTimeout ResourceGroupBeingDeleted AnotherOperationInProgress Conflict Md5Mismatch IncompleteBody
        com.microsoft:timeout com.microsoft:container-close com.microsoft:entity-disabled com.microsoft:operation-cancelled
        amqp:internal-error amqp:connection:forced amqp:connection:framing-error amqp:link:detach-forced
        amqp:link:transfer-limit-exceeded amqp:link:stolen amqp:link:redirect amqp:session:window-violation
        amqp:socket-error amqp:unknown-error amqp:client-error MessagingEntityDisabledError OperationTimeoutError
        ServiceBusCommunicationError""",
    Code.TOO_LARGE: """RequestBodyTooLarge PayloadTooLarge amqp:link:message-size-exceeded amqp:frame-size-too-small
        MessageSizeExceededError""",
    Code.INVALID: """InvalidInput InvalidHeaderValue InvalidQueryParameterValue InvalidRange InvalidUri InvalidResourceName
        InvalidTemplate InvalidRequestContent InvalidParameter OutOfRangeInput OutOfRangeQueryParameterValue UnsupportedHeader
        MissingRequiredHeader BadRequest amqp:not-allowed amqp:not-implemented amqp:invalid-field amqp:decode-error
        com.microsoft:argument-error com.microsoft:argument-out-of-range""",
    Code.PRECONDITION: """LeaseIdMissing LeaseLost amqp:precondition-failed amqp:illegal-state com.microsoft:message-lock-lost
        MessageLockLostError SessionLockLostError MessageAlreadySettled""",
}
_CONDITION = re.compile(r"\b((?:amqp|com\.microsoft):[a-z:-]+[a-z])")
_WAIT = re.compile(r"[Ww]ait (\d{1,3}) seconds")
_STATUS = {410: Code.NOT_FOUND, 412: Code.ALREADY_EXISTS}  # 412: a put with if_absent of a key that exists
_EXCEPTIONS = (  # the first match counts
    (sdk.ClientAuthenticationError, Code.DENIED),
    (sdk.ResourceNotFoundError, Code.NOT_FOUND),
    (sdk.ResourceExistsError, Code.ALREADY_EXISTS),
    (sdk.ResourceModifiedError, Code.ALREADY_EXISTS),
    ((sdk.ServiceRequestError, sdk.ServiceResponseError, sdk.IncompleteReadError, sdk.DecodeError), Code.UNAVAILABLE),
    ((ConnectionError, TimeoutError, CancelledError), Code.UNAVAILABLE),
)
CODES = Codes(_WORDS, _EXCEPTIONS, _STATUS)


def asking(error: E) -> E:
    """The same error, with the time to wait and the reason for a refused token added.

    ``retry_after_s`` is set where Service Bus gives a time to wait (see `fsd_core.driver`). Where Service Bus refused a token, only the
    inner error has the reason, so the reason is added to the text of this error.
    """
    reason = getattr(getattr(error, "inner_exception", None), "status_description", None)
    if reason and _token_status(error):
        words = f" {_token_status(error)}: {reason.decode(errors='replace') if isinstance(reason, bytes) else reason}"
        error.args = (str(error).removesuffix(words) + words, *error.args[1:])
    if found := _WAIT.search(str(error)):
        error.retry_after_s = float(found[1])  # type: ignore[attr-defined]  # an attribute of our own
    return error


def classify(error: BaseException) -> Code:
    """The `Code` of an error that a driver of this provider raised; UNKNOWN for any other exception."""
    if isinstance(error, sdk.HttpResponseError):
        word = getattr(error, "error_code", None) or getattr(error.error, "code", None) or ""
        if (code := CODES.answer(error.status_code or 0, str(getattr(word, "value", word)))) is not Code.UNKNOWN:
            return code
        if type(error) is sdk.HttpResponseError and error.inner_exception is not None:  # the connection ended within a body
            return classify(error.inner_exception)
    if type(error).__module__.startswith("azure.servicebus"):
        return _service_bus(error)
    return CODES.error(error)


def _service_bus(error: BaseException) -> Code:
    """The class counts first, then the AMQP condition: some classes, which the table leaves out, cover every reason for the end of a link
    or connection.
    """
    name = type(error).__name__
    if name == "ServiceBusAuthenticationError":
        return _authentication(error)
    if code := CODES.word(name):
        return code
    for condition in _CONDITION.findall(str(error)):
        if code := CODES.word(condition):
            return code
    inner = getattr(error, "inner_exception", None)  # an error outside AMQP, of credentials for instance, is wrapped
    if inner is not None and not type(inner).__module__.startswith("azure.servicebus"):
        return classify(inner)
    return Code.UNAVAILABLE


def _token_status(error: BaseException) -> int:
    """The HTTP status with which the service answered a token; 0 where it gave none."""
    status = getattr(getattr(error, "inner_exception", None), "status_code", None)
    return status if isinstance(status, int) else 0


def _authentication(error: BaseException) -> Code:
    """A token is for one queue: the service refuses it with 404 where the queue does not exist.

    Without an answer the link for tokens broke, or its token expired: the next link sends a new token.
    """
    if status := _token_status(error):
        code = CODES.answer(status)
        return code if code is not Code.UNKNOWN else Code.DENIED
    denied = any(CODES.word(condition) is Code.DENIED for condition in _CONDITION.findall(str(error)))
    return Code.DENIED if denied or getattr(error, "inner_exception", None) is None else Code.UNAVAILABLE


_ADVICE = (  # a pattern of an error's text, and what to do; the first match counts
    (r"ProxyError|Unable to connect to proxy", PROXY),
    (r"AADSTS700024|AADSTS500133|not within its valid time range|token is not yet valid|Signature not valid in the specified time", CLOCK),
    (
        r"AADSTS(7000215|7000222|700016|700027|90002|900021|900023)",
        "AZURE_TENANT_ID, AZURE_CLIENT_ID and the secret or certificate do not belong together, or the secret expired: check each",
    ),
    (
        r"ExpiredAuthenticationToken|AADSTS\d+|InvalidAuthenticationToken|token (is|has) expired|ExpiredToken",
        "the Azure credentials expired or were revoked: run 'az login' again",
    ),
    (
        r"InvalidAuthenticationTokenTenant|SubscriptionNotFound|InvalidSubscriptionId",
        "these credentials have no access to the subscription: set [azure] subscription in fsd.toml to one that 'az account list' shows",
    ),
    (
        r"CredentialUnavailableError|DefaultAzureCredential failed|EnvironmentCredential|AzureCliCredential|NoAuthenticationInformation",
        "no Azure credentials work: run 'az login', or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    ),
    (
        r"MessageSizeExceededError|message-size-exceeded",
        "the message is too large for the namespaces' tier, which is not the one in [azure] tier: set [azure] tier and deploy again",
    ),
    (
        r"ServiceBusServerBusyError|server-busy",
        "a Service Bus namespace is throttled (Standard tier: 1,000 messages per second): destroy the app and deploy it with more "
        "[azure] namespaces, or run with --channel object",
    ),
    (
        r"connection quota|[Nn]umber of (active )?connections|MaxConnections",
        "a Service Bus namespace has too many connections: destroy the app and deploy it with more [azure] namespaces, or run with "
        "--channel object",
    ),
    (
        r"ServiceBusQuotaExceededError|resource-limit-exceeded|QuotaExceeded",
        "a quota of Azure is used up: run fewer workers, or request a larger quota ('az quota', or Help + support in the portal)",
    ),
    (
        r"MissingSubscriptionRegistration|SubscriptionNotRegistered",
        "a service is not registered in the subscription: run 'az provider register --namespace' with the name above, wait some minutes",
    ),
    (
        r"ContainerBeingDeleted|ResourceGroupBeingDeleted",
        "the resource is still being deleted, which takes a minute or more: run again later",
    ),
    (
        r"KeyBasedAuthenticationNotPermitted",
        "the storage account accepts no keys: unset AZURE_STORAGE_CONNECTION_STRING, so that your login is used",
    ),
    (
        r"Code>40[13]</Code|Authorization failed for specified action",
        "these credentials may not make queues: they lack the role Azure Service Bus Data Owner, or got it only some minutes ago; "
        "or the key of the connection string is wrong, or lacks the claim Manage",
    ),
    (
        r"AuthenticationFailed|InvalidAuthenticationInfo|InvalidSignature|Server failed to authenticate",
        "the key in the connection string does not belong to the account: copy it again ('az storage account show-connection-string')",
    ),
    (
        r"MessagingEntityNotFoundError|ContainerNotFound|ResourceNotFound|ResourceGroupNotFound|amqp:not-found"
        r"|ServiceBusAuthenticationError: [^\n]*\b404",
        "a resource of the app is gone, or in another subscription: run 'fsd destroy --provider azure', then 'fsd deploy'",
    ),
    (
        r"ServiceBusAuthenticationError|CBS Token authentication failed|auth-failed",
        "Service Bus refuses the key or the login: copy the connection string again, or run 'az login'",
    ),
    (
        r"AuthorizationFailed|AuthorizationFailure|AuthorizationPermissionMismatch|InsufficientAccountPermissions"
        r"|LinkedAuthorizationFailed|ServiceBusAuthorizationError|unauthorized-access",
        "the credentials lack a role: docs/how-to-azure.md lists the roles; a new role becomes active after some minutes",
    ),
    (
        r"MessagingEntityDisabledError|entity-disabled",
        "a queue is disabled: enable it in the portal, or destroy the app and deploy it again",
    ),
    (
        r"ServiceRequestError|Failed to initiate the connection|Name or service not known|Connection refused|getaddrinfo failed",
        "the service cannot be reached: check the network (AMQP needs port 5671), and for an emulator FSD_AZURE_SERVICE_BUS and "
        "AZURE_STORAGE_CONNECTION_STRING",
    ),
)


def advice(error: BaseException | str) -> str | None:
    """One line on what a person can do about an error of Azure, or None without advice: see `fsd_core.providers.advice.advise`."""
    return advise(_ADVICE, error)
