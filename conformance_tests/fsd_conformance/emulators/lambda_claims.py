"""The operations of the local Lambda: the supported and the refused parameters, headers and fields of each.

A parameter, header or field that would change the service's answer is either supported here or answered with 501 and "NotImplemented"; it
is never ignored. The list of refused ones is documentation; a test compares both lists with botocore's model of the service. Anything in
neither list is refused too. Description, KMSKeyArn, LoggingConfig, Role, Tags and the policy are only stored and returned: the emulator
checks no permissions and encrypts nothing. A function has one qualifier, $LATEST; others are not found, as on the platform without versions
and aliases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["OPERATIONS", "Operation", "controls", "unclaimed"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its name in the service's model, its path as a regular expression, and the supported parts of a request."""

    name: str
    method: str
    path: str
    does: str
    parameters: frozenset[str] = frozenset()
    headers: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()


_F = "/functions/([^/]+)"
_Q = _words("Qualifier")
_CONFIGURED = _words("Description Environment Handler KMSKeyArn LoggingConfig MemorySize Role Runtime Timeout")
_EVENTS = _words("DestinationConfig MaximumEventAgeInSeconds MaximumRetryAttempts")
OPERATIONS = (
    Operation(
        *("CreateFunction", "POST", "/2015-03-31/functions", "create"),
        fields=_CONFIGURED | _words("Architectures Code FunctionName Tags"),
    ),
    Operation("ListFunctions", "GET", "/2015-03-31/functions", "list", _words("Marker MaxItems")),
    Operation(
        *("Invoke", "POST", f"/2015-03-31{_F}/invocations", "invoke"),
        parameters=_Q,
        headers=_words("x-amz-client-context x-amz-invocation-type x-amz-log-type"),
    ),
    Operation("GetFunction", "GET", f"/2015-03-31{_F}", "get", _Q),
    Operation("DeleteFunction", "DELETE", f"/2015-03-31{_F}", "delete", _Q),
    Operation("GetFunctionConfiguration", "GET", f"/2015-03-31{_F}/configuration", "get_configuration", _Q),
    Operation(
        *("UpdateFunctionConfiguration", "PUT", f"/2015-03-31{_F}/configuration", "update_configuration"),
        fields=_CONFIGURED | _words("RevisionId"),
    ),
    Operation(
        *("UpdateFunctionCode", "PUT", f"/2015-03-31{_F}/code", "update_code"),
        fields=_words("Architectures RevisionId S3Bucket S3Key ZipFile"),
    ),
    Operation(
        *("PutFunctionConcurrency", "PUT", f"/2017-10-31{_F}/concurrency", "put_concurrency"),
        fields=_words("ReservedConcurrentExecutions"),
    ),
    Operation("DeleteFunctionConcurrency", "DELETE", f"/2017-10-31{_F}/concurrency", "delete_concurrency"),
    Operation("GetFunctionConcurrency", "GET", f"/2019-09-30{_F}/concurrency", "get_concurrency"),
    Operation("PutFunctionEventInvokeConfig", "PUT", f"/2019-09-25{_F}/event-invoke-config", "put_events", _Q, fields=_EVENTS),
    Operation("UpdateFunctionEventInvokeConfig", "POST", f"/2019-09-25{_F}/event-invoke-config", "update_events", _Q, fields=_EVENTS),
    Operation("GetFunctionEventInvokeConfig", "GET", f"/2019-09-25{_F}/event-invoke-config", "get_events", _Q),
    Operation("DeleteFunctionEventInvokeConfig", "DELETE", f"/2019-09-25{_F}/event-invoke-config", "delete_events", _Q),
    Operation(
        *("PutFunctionRecursionConfig", "PUT", f"/2024-08-31{_F}/recursion-config", "put_recursion"),
        fields=_words("RecursiveLoop"),
    ),
    Operation("GetFunctionRecursionConfig", "GET", f"/2024-08-31{_F}/recursion-config", "get_recursion"),
    Operation(
        *("AddPermission", "POST", f"/2015-03-31{_F}/policy", "add_permission"),
        fields=_words("Action FunctionUrlAuthType Principal PrincipalOrgID RevisionId SourceAccount SourceArn StatementId"),
    ),
    Operation("GetPolicy", "GET", f"/2015-03-31{_F}/policy", "get_policy"),
    Operation("RemovePermission", "DELETE", f"/2015-03-31{_F}/policy/([^/]+)", "remove_permission"),
    Operation("ListAliases", "GET", f"/2015-03-31{_F}/aliases", "list_aliases"),
    Operation("ListVersionsByFunction", "GET", f"/2015-03-31{_F}/versions", "list_versions"),
    Operation("GetAccountSettings", "GET", "/2016-08-19/account-settings", "account"),
    Operation("ListTags", "GET", "/2017-03-31/tags/(.+)", "get_tags"),
    Operation("TagResource", "POST", "/2017-03-31/tags/(.+)", "tag", fields=_words("Tags")),
    Operation("UntagResource", "DELETE", "/2017-03-31/tags/(.+)", "untag", _words("tagKeys")),
)
CODE = _words("S3Bucket S3Key ZipFile")  # fields of CreateFunction's Code
REFUSED = {  # fields, parameters and headers, by operation
    "CreateFunction": _words(
        "AcceleratorConfig CapacityProviderConfig CodeSigningConfigArn DeadLetterConfig DurableConfig EphemeralStorage FileSystemConfigs "
        "ImageConfig Layers PackageType Publish PublishTo RuntimeConfig SnapStart TenancyConfig TracingConfig "
        "VpcConfig"
    ),
    "UpdateFunctionConfiguration": _words(
        "AcceleratorConfig CapacityProviderConfig DeadLetterConfig DurableConfig EphemeralStorage FileSystemConfigs ImageConfig "
        "Layers RuntimeConfig SnapStart TracingConfig VpcConfig"
    ),
    "UpdateFunctionCode": _words("DryRun ImageUri Publish PublishTo S3ObjectStorageMode S3ObjectVersion SourceKMSKeyArn"),
    "ListFunctions": _words("FunctionVersion MasterRegion"),
    "ListAliases": _words("FunctionVersion Marker MaxItems"),
    "ListVersionsByFunction": _words("Marker MaxItems"),
    "AddPermission": _words("EventSourceToken InvokedViaFunctionUrl Qualifier"),
    "GetPolicy": _words("Qualifier"),
    "RemovePermission": _words("Qualifier RevisionId"),
    "Invoke": _words("X-Amz-Durable-Execution-Name X-Amz-Tenant-Id"),
}
CODE_REFUSED = _words("ImageUri S3ObjectStorageMode S3ObjectVersion SourceKMSKeyArn")
OPERATIONS_REFUSED = _words(
    "AddLayerVersionPermission CreateAlias CreateEventSourceMapping CreateFunctionUrlConfig DeleteAlias GetAlias "
    "GetFunctionUrlConfig GetLayerVersion GetProvisionedConcurrencyConfig GetRuntimeManagementConfig InvokeAsync "
    "InvokeWithResponseStream ListEventSourceMappings ListFunctionEventInvokeConfigs ListLayers "
    "PublishLayerVersion PublishVersion PutProvisionedConcurrencyConfig PutRuntimeManagementConfig UpdateAlias"
)
# The default of each refused field: this value is accepted.
_NOTHING: dict[str, Any] = {
    "EphemeralStorage": {"Size": 512},
    "PackageType": "Zip",
    "SnapStart": {"ApplyOn": "None"},
    "TracingConfig": {"Mode": "PassThrough"},
}
_NO_EFFECT = _words("x-amz-content-sha256 x-amz-date x-amz-security-token x-amz-user-agent")  # of a signature, which is not checked


def controls(header: str) -> bool:
    """Whether a header, in lower case, would change the service's answer."""
    return header.startswith("x-amz-") and header not in _NO_EFFECT


def _is_set(value: object) -> bool:
    """Whether a field has a value other than empty."""
    if isinstance(value, Mapping):
        return any(map(_is_set, value.values()))
    return value not in (None, False, "", [])


def unclaimed(body: Mapping[str, Any], fields: frozenset[str]) -> str | None:
    """The first field of ``body`` that is not supported and has another value than its default; None if no field has."""
    return next((name for name, value in body.items() if name not in fields and _is_set(value) and value != _NOTHING.get(name)), None)
