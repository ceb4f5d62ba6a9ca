"""What Azure's errors mean: one table from the services' own words and statuses to ours, one from the SDKs' exceptions.

Blob Storage and the Resource Manager answer with a word; Service Bus with a condition of AMQP, which azure-servicebus turns into a
class of its own or leaves in the text. azure-servicebus is not imported here: a worker of the object channel does without.
"""

from __future__ import annotations

import re
from concurrent.futures import CancelledError
from typing import TypeVar

from azure.core import exceptions as sdk

from fsd_core.driver import Code, Refused
from fsd_core.providers.advice import advise
from fsd_core.providers.http_codes import http_code

__all__ = ["advice", "asking", "classify", "status_code"]

E = TypeVar("E", bound=BaseException)
_WORDS = {
    Code.THROTTLED: """ServerBusy TooManyRequests IngressExceedsAccountLimit EgressExceedsAccountLimit
        OperationsPerSecondExceedsAccountLimit SubscriptionRequestsThrottled ResourceRequestsThrottled QuotaExceeded
        com.microsoft:server-busy amqp:resource-limit-exceeded com.microsoft:resource-limit-exceeded""",
    Code.NOT_FOUND: """BlobNotFound ContainerNotFound ResourceNotFound ResourceGroupNotFound NotFound SubscriptionNotFound
        EntityNotFound amqp:not-found com.microsoft:entity-not-found com.microsoft:message-not-found""",
    Code.ALREADY_EXISTS: """BlobAlreadyExists ContainerAlreadyExists ResourceAlreadyExists EntityAlreadyExists ConditionNotMet
        com.microsoft:entity-already-exists""",  # of a put that must create, 409 as well as 412: lost
    Code.DENIED: """AuthenticationFailed AuthorizationFailed AuthorizationFailure AuthorizationPermissionMismatch
        AuthorizationSourceIPMismatch AuthorizationProtocolMismatch InvalidAuthenticationInfo InvalidAuthenticationToken
        InvalidAuthenticationTokenTenant NoAuthenticationInformation ExpiredAuthenticationToken InsufficientAccountPermissions
        AccountIsDisabled KeyBasedAuthenticationNotPermitted PublicAccessNotPermitted LinkedAuthorizationFailed
        amqp:unauthorized-access com.microsoft:auth-failed""",
    Code.UNAVAILABLE: """InternalError InternalServerError OperationTimedOut ContainerBeingDeleted ContainerDisabled ServiceUnavailable
        GatewayTimeout RequestTimeout ResourceGroupBeingDeleted AnotherOperationInProgress Conflict Md5Mismatch IncompleteBody
        com.microsoft:timeout com.microsoft:container-close com.microsoft:entity-disabled com.microsoft:operation-cancelled
        amqp:internal-error amqp:connection:forced amqp:connection:framing-error amqp:link:detach-forced
        amqp:link:transfer-limit-exceeded amqp:link:stolen amqp:link:redirect amqp:session:window-violation
        amqp:socket-error amqp:unknown-error amqp:client-error""",
    Code.TOO_LARGE: "RequestBodyTooLarge PayloadTooLarge amqp:link:message-size-exceeded amqp:frame-size-too-small",
    Code.INVALID: """InvalidInput InvalidHeaderValue InvalidQueryParameterValue InvalidRange InvalidUri InvalidResourceName
        InvalidTemplate InvalidRequestContent InvalidParameter OutOfRangeInput OutOfRangeQueryParameterValue UnsupportedHeader
        MissingRequiredHeader BadRequest amqp:not-allowed amqp:not-implemented amqp:invalid-field amqp:decode-error
        com.microsoft:argument-error com.microsoft:argument-out-of-range""",
    Code.PRECONDITION: "LeaseIdMissing LeaseLost amqp:precondition-failed amqp:illegal-state com.microsoft:message-lock-lost",
}
_CODES = {word: code for code, words in _WORDS.items() for word in words.split()}
_CONDITION = re.compile(r"\b((?:amqp|com\.microsoft):[a-z:-]+[a-z])")
_WAIT = re.compile(r"[Ww]ait (\d{1,3}) seconds")
_STATUS = {410: Code.NOT_FOUND, 412: Code.ALREADY_EXISTS}  # beside what they mean everywhere; 412 is the answer to a conditional create
_NAMES = {  # of azure.servicebus.exceptions
    "ServiceBusServerBusyError": Code.THROTTLED,
    "ServiceBusQuotaExceededError": Code.THROTTLED,
    "MessagingEntityNotFoundError": Code.NOT_FOUND,
    "MessageNotFoundError": Code.NOT_FOUND,
    "MessagingEntityAlreadyExistsError": Code.ALREADY_EXISTS,
    "ServiceBusAuthorizationError": Code.DENIED,
    "MessageSizeExceededError": Code.TOO_LARGE,
    "MessageLockLostError": Code.PRECONDITION,
    "SessionLockLostError": Code.PRECONDITION,
    "MessageAlreadySettled": Code.PRECONDITION,
    "MessagingEntityDisabledError": Code.UNAVAILABLE,
    "OperationTimeoutError": Code.UNAVAILABLE,
    "ServiceBusConnectionError": Code.UNAVAILABLE,
    "ServiceBusCommunicationError": Code.UNAVAILABLE,
}
_EXCEPTIONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Code], ...] = (  # the first that fits
    (sdk.ClientAuthenticationError, Code.DENIED),
    (sdk.ResourceNotFoundError, Code.NOT_FOUND),
    (sdk.ResourceExistsError, Code.ALREADY_EXISTS),
    (sdk.ResourceModifiedError, Code.ALREADY_EXISTS),
    ((sdk.ServiceRequestError, sdk.ServiceResponseError, sdk.IncompleteReadError, sdk.DecodeError), Code.UNAVAILABLE),
    ((ConnectionError, TimeoutError, CancelledError), Code.UNAVAILABLE),
)


def status_code(status: int, word: str = "") -> Code:
    """The code of an answer of HTTP, of a whole request or of one in a batch."""
    return _CODES.get(word) or _STATUS.get(status) or http_code(status)


def asking(error: E) -> E:
    """The same error, with ``retry_after_s`` where Service Bus says how long to wait; see `fsd_core.driver`. Of a token that was not
    taken azure-servicebus keeps what the service said in the inner error alone: then its words are added."""
    said = getattr(getattr(error, "inner_exception", None), "status_description", None)
    if said and _token_status(error):
        words = f" {_token_status(error)}: {said.decode(errors='replace') if isinstance(said, bytes) else said}"
        error.args = (str(error).removesuffix(words) + words, *error.args[1:])
    if found := _WAIT.search(str(error)):
        error.retry_after_s = float(found[1])  # type: ignore[attr-defined]  # an attribute of our own
    return error


def classify(error: BaseException) -> Code:
    """The code of any error that a driver of this provider raised."""
    if isinstance(error, Refused):
        return error.code
    if isinstance(error, sdk.HttpResponseError):
        word = getattr(error, "error_code", None) or getattr(error.error, "code", None) or ""
        if (code := status_code(error.status_code or 0, str(getattr(word, "value", word)))) is not Code.UNKNOWN:
            return code
        if type(error) is sdk.HttpResponseError and error.inner_exception is not None:  # a body that broke off comes so
            return classify(error.inner_exception)
    if type(error).__module__.startswith("azure.servicebus"):
        return _service_bus(error)
    return next((code for kinds, code in _EXCEPTIONS if isinstance(error, kinds)), Code.UNKNOWN)


def _service_bus(error: BaseException) -> Code:
    """The condition says more than the class: what ends a link or a connection is one class, whatever its reason."""
    name = type(error).__name__
    if name == "ServiceBusAuthenticationError":
        return _authentication(error)
    if name in _NAMES and name != "ServiceBusConnectionError":
        return _NAMES[name]
    for condition in _CONDITION.findall(str(error)):
        if condition in _CODES:
            return _CODES[condition]
    inner = getattr(error, "inner_exception", None)  # what is no error of AMQP, say of credentials, comes as a ServiceBusError
    if inner is not None and not type(inner).__module__.startswith("azure.servicebus"):
        return classify(inner)
    return Code.UNAVAILABLE


def _token_status(error: BaseException) -> int:
    """The status, as of HTTP, that the service answered a token with; 0: there is none."""
    status = getattr(getattr(error, "inner_exception", None), "status_code", None)
    return status if isinstance(status, int) else 0


def _authentication(error: BaseException) -> Code:
    """A token is put for a queue, and refused with 404 where there is none. Without an answer the way to where tokens are put broke,
    or the token ran out on it: the next link puts a new one."""
    if status := _token_status(error):
        code = status_code(status)
        return code if code is not Code.UNKNOWN else Code.DENIED
    denied = any(_CODES.get(condition) is Code.DENIED for condition in _CONDITION.findall(str(error)))
    return Code.DENIED if denied or getattr(error, "inner_exception", None) is None else Code.UNAVAILABLE


_ADVICE = (  # words of an error, as a pattern, and what to do: the first that is found
    (r"ProxyError|Unable to connect to proxy", "the proxy of HTTPS_PROXY or HTTP_PROXY cannot be reached: set another, or NO_PROXY"),
    (
        r"AADSTS700024|AADSTS500133|not within its valid time range|token is not yet valid|Signature not valid in the specified time",
        "this machine's clock is wrong by more than 5 minutes: set it ('timedatectl set-ntp true')",
    ),
    (
        r"AADSTS(7000215|7000222|700016|700027|90002|900021|900023)",
        "AZURE_TENANT_ID, AZURE_CLIENT_ID and the secret or certificate do not belong together, or it expired: look at each",
    ),
    (
        r"ExpiredAuthenticationToken|AADSTS\d+|InvalidAuthenticationToken|token (is|has) expired|ExpiredToken",
        "the Azure credentials expired, or were revoked: run 'az login' again",
    ),
    (
        r"InvalidAuthenticationTokenTenant|SubscriptionNotFound|InvalidSubscriptionId",
        "the subscription is not one of these credentials: set [azure] subscription in fsd.toml to one that 'az account list' shows",
    ),
    (
        r"CredentialUnavailableError|DefaultAzureCredential failed|EnvironmentCredential|AzureCliCredential|NoAuthenticationInformation",
        "no Azure credentials are found that work: run 'az login', or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    ),
    (
        r"MessageSizeExceededError|message-size-exceeded",
        "the namespaces' tier is too small for the message: [azure] tier says another than they have; deploy again with the right one",
    ),
    (
        r"ServiceBusServerBusyError|server-busy",
        "a Service Bus namespace is throttled, 1,000 messages a second in the Standard tier: destroy the app and deploy it with more "
        "[azure] namespaces, or run with --channel object",
    ),
    (
        r"connection quota|[Nn]umber of (active )?connections|MaxConnections",
        "a Service Bus namespace has too many connections: destroy the app and deploy it with more [azure] namespaces, or run with "
        "--channel object",
    ),
    (
        r"ServiceBusQuotaExceededError|resource-limit-exceeded|QuotaExceeded",
        "over a quota of Azure: run fewer workers, or ask for more: 'az quota', or Help + support in the portal",
    ),
    (
        r"MissingSubscriptionRegistration|SubscriptionNotRegistered",
        "a service is off in the subscription: run 'az provider register --namespace' with the name above, and wait some minutes",
    ),
    (
        r"ContainerBeingDeleted|ResourceGroupBeingDeleted",
        "it is being deleted still, which takes a minute or more: run again then",
    ),
    (
        r"KeyBasedAuthenticationNotPermitted",
        "the storage account takes no keys: unset AZURE_STORAGE_CONNECTION_STRING, so that your login is used",
    ),
    (
        r"Code>40[13]</Code|Authorization failed for specified action",
        "Service Bus lets these credentials make no queues: they lack the role Azure Service Bus Data Owner, or have it since less than "
        "some minutes; with a connection string its key is wrong, or has no claim to Manage",
    ),
    (
        r"AuthenticationFailed|InvalidAuthenticationInfo|InvalidSignature|Server failed to authenticate",
        "the key in the connection string is not the account's: copy it again ('az storage account show-connection-string')",
    ),
    (
        r"MessagingEntityNotFoundError|ContainerNotFound|ResourceNotFound|ResourceGroupNotFound|amqp:not-found"
        r"|ServiceBusAuthenticationError: [^\n]*\b404",
        "something of the app is gone, or in another subscription: 'fsd destroy --provider azure', then 'fsd deploy', makes it anew",
    ),
    (
        r"ServiceBusAuthenticationError|CBS Token authentication failed|auth-failed",
        "Service Bus does not take the key or the login: copy the connection string again, or run 'az login'",
    ),
    (
        r"AuthorizationFailed|AuthorizationFailure|AuthorizationPermissionMismatch|InsufficientAccountPermissions"
        r"|LinkedAuthorizationFailed|ServiceBusAuthorizationError|unauthorized-access",
        "the credentials lack a role: docs/how-to-azure.md lists all that are needed; a change takes some minutes",
    ),
    (
        r"MessagingEntityDisabledError|entity-disabled",
        "a queue is disabled: enable it in the portal, or destroy the app and deploy it again",
    ),
    (
        r"ServiceRequestError|Failed to initiate the connection|Name or service not known|Connection refused|getaddrinfo failed",
        "the service cannot be reached: look at the network (AMQP needs port 5671), and at FSD_AZURE_SERVICE_BUS and "
        "AZURE_STORAGE_CONNECTION_STRING if an emulator is meant",
    ),
)


def advice(error: BaseException | str) -> str | None:
    """What to do about an error of Azure, in a line for people: see `fsd_core.providers.advise`."""
    return advise(_ADVICE, error)
