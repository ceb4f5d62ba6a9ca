"""Makes, updates and removes the function, its role and its log group.

The function is also the record of the app: its environment variable `RESOURCES`, which its workers read, names the app's resources. If two
clients create the function at the same time, only one of them succeeds. Its generation (see `fsd_aws.names`) becomes the app's, and both
clients use that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fsd_aws import policy
from fsd_aws.api import Api
from fsd_aws.names import Names
from fsd_aws.package import DIRECT_BYTES, HANDLER
from fsd_aws.variables import RESOURCES
from fsd_core.driver import Code, Resources
from fsd_core.errors import DriverError, InputError
from fsd_core.providers.environment import foreign, from_record, to_environment
from fsd_core.providers.package import Package

__all__ = ["create", "guard", "make_log_group", "make_role", "read", "remove", "remove_around", "sent", "set_policy", "update"]

LOGS_KEPT_DAYS = 14
_POLICY = "fsd"  # the name of the role's one inline policy


def read(api: Api, app: str, function: str) -> Resources | None:
    """The resources that the function's environment names; None where the function does not exist.

    Raises `InputError` where fsd did not make the function, and `DriverError` where the credentials may not use the key of its environment.
    """
    found = api.find("lambda", "get_function_configuration", FunctionName=function)
    if found is None:
        return None
    environment = found.get("Environment", {})
    if error := environment.get("Error"):  # Lambda answers, but leaves the variables out
        raise DriverError(
            Code.DENIED,
            f"function {function}: Lambda cannot show its environment: {error.get('Message')}: expected credentials that may use "
            "kms:Decrypt on the key of the app: docs/how-to-aws.md, step 2",
        )
    return from_record(environment.get("Variables", {}).get(RESOURCES), app, f"a function {function}")


def make_role(api: Api, app: str, role: str) -> str:
    """Make the function's role, which only Lambda assumes, and return its ARN.

    Raises `InputError` where a role of this name is not the app's.
    """
    tags = [{"Key": policy.APP_TAG, "Value": app}]
    about = {"Description": f"The workers of app {app}, by fsd", "Tags": tags}
    made = api.call_unless(
        Code.ALREADY_EXISTS, "iam", "create_role", RoleName=role, AssumeRolePolicyDocument=json.dumps(policy.trust()), **about
    )
    found = made or api.call("iam", "get_role", RoleName=role)
    if made is None and tags[0] not in found["Role"].get("Tags", ()):
        raise foreign(app, f"a role {role}", "name a role in [aws] role")
    if made is None:
        api.call("iam", "update_assume_role_policy", RoleName=role, PolicyDocument=json.dumps(policy.trust()))
    return str(found["Role"]["Arn"])


def set_policy(api: Api, names: Names, bucket: str, function: str, role: str) -> None:
    """Give the role the permissions that workers need, and no others."""
    document = json.dumps(policy.worker(names, bucket, function))
    api.call("iam", "put_role_policy", RoleName=role, PolicyName=_POLICY, PolicyDocument=document)


def make_log_group(api: Api, app: str, function: str, key: str) -> None:
    """Make the log group, which keeps the functions' output for 14 days. Workers then need no permission to make one.

    ``key``: the ARN of the key that encrypts it; "": a key of AWS.
    """
    group = policy.log_group(function)
    own = {"kmsKeyId": key} if key else {}
    made = api.call_unless(Code.ALREADY_EXISTS, "logs", "create_log_group", logGroupName=group, tags={policy.APP_TAG: app}, **own)
    if key and made is None:
        api.call("logs", "associate_kms_key", logGroupName=group, kmsKeyId=key)
    api.call("logs", "put_retention_policy", logGroupName=group, retentionInDays=LOGS_KEPT_DAYS)


def create(api: Api, resources: Resources, code: Mapping[str, object]) -> bool:
    """Create the function with ``code``, which `sent` yielded. Returns False where another client created it first."""
    made = api.call_unless(
        Code.ALREADY_EXISTS,
        "lambda",
        "create_function",
        FunctionName=resources.names["function"],
        Code=code,
        Tags={policy.APP_TAG: resources.app},
        **_configuration(resources),
    )
    return made is not None


@contextmanager
def sent(api: Api, bucket: str, package: Package) -> Iterator[dict[str, object]]:
    """Yield the code of a function as the requests of Lambda take it: the zip, or its place in the app's bucket if it is large.

    The end of the block removes the zip from the bucket.
    """
    if len(package.body) <= DIRECT_BYTES:
        yield {"ZipFile": package.body}
        return
    place = {"Bucket": bucket, "Key": f"code/{package.digest}.zip"}
    api.call("s3", "put_object", **place, Body=package.body)
    try:
        yield {"S3Bucket": place["Bucket"], "S3Key": place["Key"]}
    finally:
        api.call("s3", "delete_object", **place)  # Lambda has its own copy


def update(api: Api, resources: Resources, package: Package | None = None) -> None:
    """Send the function new code, if given, then its configuration with ``resources``; return when both are active."""
    function = {"FunctionName": resources.names["function"]}
    _check_processor(api, resources)
    if package is not None:
        with sent(api, resources.names["bucket"], package) as code:
            api.call("lambda", "update_function_code", **function, **code)
        _settle(api, resources.names["function"])
    api.call("lambda", "update_function_configuration", **function, **_configuration(resources))
    _settle(api, resources.names["function"])


def _check_processor(api: Api, resources: Resources) -> None:
    """Raise `InputError` if the app needs ONNX Runtime and the function is arm64: a function that fsd did not make may be arm64.

    The package has ONNX Runtime for x86-64, and it was never tested on Lambda's arm64.
    """
    if resources.names.get("engine") != "onnx":
        return
    name = resources.names["function"]
    if "arm64" in api.call("lambda", "get_function_configuration", FunctionName=name).get("Architectures", ()):
        again = f"'fsd destroy --provider aws --app {resources.app}', then 'fsd deploy --provider aws --app {resources.app} --engine onnx'"
        raise InputError(f"engine onnx: function {name} is arm64: expected x86_64, for which the package has ONNX Runtime: {again}")


def guard(api: Api, resources: Resources) -> None:
    """Set the limits of launches: retries, seconds in Lambda's queue, concurrency; and the queue for launches that Lambda drops."""
    names, function = Names.of(resources), {"FunctionName": resources.names["function"]}
    api.call(
        "lambda",
        "put_function_event_invoke_config",
        **function,
        MaximumRetryAttempts=0,  # a failed worker has reported its reason, and its rank remains claimed
        MaximumEventAgeInSeconds=60,
        DestinationConfig={"OnFailure": {"Destination": names.arn("sqs", names.failed)}},
    )
    # Without this Lambda stops a chain of 16 functions that start each other, without an error. Our launch tree ends by itself.
    api.call("lambda", "put_function_recursion_config", **function, RecursiveLoop="Allow")
    if reserved := resources.names["concurrency"]:
        api.call("lambda", "put_function_concurrency", **function, ReservedConcurrentExecutions=int(reserved))
    else:
        api.call("lambda", "delete_function_concurrency", **function)


def _configuration(resources: Resources) -> dict[str, Any]:
    names = resources.names
    return {
        "Runtime": names["runtime"],
        "Role": names["role"],
        "Handler": HANDLER,
        "MemorySize": int(names["memory_mb"]),
        "Timeout": int(names["timeout_s"]),
        "Environment": {"Variables": {RESOURCES: to_environment(resources)}},
        **({"KMSKeyArn": names["kms_key"]} if names.get("kms_key") else {}),
    }


def _settle(api: Api, function: str) -> None:
    """Return when the function is active and its last update is done. Raises `DriverError` where the update failed."""

    def check() -> bool | None:
        now = api.call("lambda", "get_function_configuration", FunctionName=function)
        state = {now.get("State", "Active"), now.get("LastUpdateStatus", "Successful")}
        if "Failed" in state:
            raise DriverError(Code.INVALID, f"function {function}: {now.get('StateReason') or now.get('LastUpdateStatusReason')}")
        return True if state <= {"Active", "Inactive", "Successful"} else None

    api.until(f"function {function} active", check)


def remove(api: Api, function: str) -> list[str]:
    """Remove the function. Returns one line of text that names it; an empty list where it did not exist."""
    gone = api.find("lambda", "delete_function", FunctionName=function)
    return [] if gone is None else [f"function {function}"]


def remove_around(api: Api, app: str, function: str, role: str) -> list[str]:
    """Remove the function's log group, and its role if fsd made it. Returns one line of text for each removed resource."""
    removed = []
    found = api.find("iam", "get_role", RoleName=role)
    if found is not None and {"Key": policy.APP_TAG, "Value": app} in found["Role"].get("Tags", ()):
        api.find("iam", "delete_role_policy", RoleName=role, PolicyName=_POLICY)
        if api.find("iam", "delete_role", RoleName=role) is not None:
            removed.append(f"role {role}")
    group = policy.log_group(function)
    if api.find("logs", "delete_log_group", logGroupName=group) is not None:
        removed.append(f"log group {group}")
    return removed
