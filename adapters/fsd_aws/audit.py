"""What ``fsd audit`` finds on AWS: each property of a deployed app, compared with what `fsd_aws.provision` makes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fsd_aws import bucket, policy, queues
from fsd_aws.api import Api
from fsd_aws.function import LOGS_KEPT_DAYS
from fsd_aws.names import Names
from fsd_core.driver import Resources
from fsd_core.errors import DriverError
from fsd_core.providers.promises import REPAIR, Promise, exactly, same, told
from fsd_core.providers.settings import RETENTION
from fsd_core.storage.retry import TRANSIENT

__all__ = ["promises"]

Document = Mapping[str, Any]
STATEMENT = "statement"
KEYS = "keys of AWS"


def promises(api: Api, had: Resources) -> list[Promise]:
    """The promises about the deployed app. Makes a request for each queue and topic, and about 15 others."""
    names = Names.of(had)
    return [
        *_bucket(api, had, names),
        *_queues(api, had, names),
        *_topics(api, had, names),
        *_role(api, had, names),
        *_function(api, had, names),
    ]


def grants(document: Document | None) -> set[str]:
    """One line for each action that a policy document allows or denies: on which resource, to whom, on which condition."""
    found = set()
    for statement in _listed((document or {}).get("Statement")):
        who = _either(statement, "Principal")
        end = f" to {'all but ' * ('NotPrincipal' in statement)}{who if isinstance(who, str) else _json(who)}" if who else ""
        end += f" if {_json(statement['Condition'])}" if statement.get("Condition") else ""
        on = [f"{'all but ' * ('NotResource' in statement)}{each}" for each in _listed(_either(statement, "Resource"))] or ["itself"]
        for action in _listed(_either(statement, "Action")):
            service, colon, name = action.partition(":")  # SNS answers with SNS:Publish
            verb = f"{statement['Effect']} {'all but ' * ('NotAction' in statement)}{service.lower()}{colon}{name}"
            found |= {f"{verb} on {each}{end}" for each in on}
    return found


def _either(statement: Document, name: str) -> Any:
    """What a statement names, or, by the element that begins with Not, what it leaves out."""
    return statement.get(name) or statement.get(f"Not{name}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _bucket(api: Api, had: Resources, names: Names) -> Iterator[Promise]:
    name = had.names["bucket"]

    def read(operation: str) -> dict[str, Any]:
        return api.find("s3", operation, Bucket=name) or {}

    rules = read("get_bucket_encryption").get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    default = rules[0].get("ApplyServerSideEncryptionByDefault") if rules else None
    yield same("bucket: encrypted at rest", {name: _json(default)}, _json(bucket.encryption(names.kms_key)))
    found = read("get_bucket_policy").get("Policy")
    yield exactly(
        "bucket: policy refuses requests without TLS", grants(found and json.loads(found)), grants(policy.bucket(names, name)), STATEMENT
    )
    closed = read("get_public_access_block").get("PublicAccessBlockConfiguration", {})
    yield same("bucket: no public access", {setting: closed.get(setting) for setting in bucket.CLOSED}, True)
    rules = read("get_bucket_lifecycle_configuration").get("Rules", [])
    wanted = bucket.life_cycle(int(had.names.get(RETENTION, "0")))  # 0: of an app that an earlier version deployed
    yield exactly("bucket: life cycle", _deletions(rules), _deletions(wanted), "rule")


def _deletions(rules: Sequence[Mapping[str, Any]]) -> set[str]:
    """The rules of a life cycle that delete objects."""
    found = [rule for rule in rules if rule.get("Status") == "Enabled" and "Days" in rule.get("Expiration", {})]
    return {f"{_json(rule.get('Filter', {}))} deleted after {rule['Expiration']['Days']} days" for rule in found}


def _queues(api: Api, had: Resources, names: Names) -> Iterator[Promise]:
    slots = {names.queue(slot, rank): slot for slot in range(had.slots) for rank in range(had.ranks)}
    every = [*slots, names.dead, names.failed]

    def read(name: str) -> dict[str, str]:
        url = had.names["queue_url_prefix"] + name
        return dict((api.find("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["All"]) or {}).get("Attributes", {}))

    found = dict(zip(every, api.each(read, every), strict=True))
    wanted = {name: queues.attributes(names, name, slots.get(name)) for name in every}
    encrypted = {
        name: each.get("KmsMasterKeyId") or ("SSE-SQS" if each.get("SqsManagedSseEnabled") == "true" else None)
        for name, each in found.items()
    }
    yield same("queues: encrypted at rest", encrypted, names.kms_key or "SSE-SQS")
    yield _policies("queues: policies admit TLS and the app's topics only", found, wanted)
    yield exactly("queues: retention", _kept(found), _kept(wanted), "retention time")


def _kept(attributes: Mapping[str, Mapping[str, str]]) -> set[str]:
    return {f"{name} keeps messages for {each.get('MessageRetentionPeriod')} s" for name, each in attributes.items()}


def _topics(api: Api, had: Resources, names: Names) -> Iterator[Promise]:
    every = list(names.topics(had.ranks, had.slots))

    def read(name: str) -> dict[str, str]:
        return dict((api.find("sns", "get_topic_attributes", TopicArn=names.arn("sns", name)) or {}).get("Attributes", {}))

    found = dict(zip(every, api.each(read, every), strict=True))
    wanted = {name: queues.topic_attributes(names, name) for name in every}
    # Without a key, SNS encrypts its disks itself, and no attribute says so.
    keys = {name: None if not each else each.get("KmsMasterKeyId") or "disks of SNS" for name, each in found.items()}
    yield same("topics: encrypted at rest", keys, names.kms_key or "disks of SNS")
    yield _policies("topics: policies refuse requests without TLS", found, wanted)


def _policies(name: str, found: Mapping[str, Mapping[str, str]], wanted: Mapping[str, Mapping[str, str]]) -> Promise:
    """The promise that the attribute Policy of each resource grants exactly what is wanted."""

    def every(attributes: Mapping[str, Mapping[str, str]]) -> set[str]:
        policies = ((json.loads(each["Policy"]) if each.get("Policy") else None) for each in attributes.values())
        return set().union(*map(grants, policies))

    return exactly(name, every(found), every(wanted), STATEMENT)


def _role(api: Api, had: Resources, names: Names) -> Iterator[Promise]:
    role = had.names["role"].rpartition("/")[2]
    trusted = (api.find("iam", "get_role", RoleName=role) or {}).get("Role", {}).get("AssumeRolePolicyDocument")
    yield exactly("role: only Lambda assumes it", grants(trusted), grants(policy.trust()), STATEMENT)
    inline = (api.find("iam", "list_role_policies", RoleName=role) or {}).get("PolicyNames", [])
    documents = [api.find("iam", "get_role_policy", RoleName=role, PolicyName=name) or {} for name in inline]
    allowed = set().union(*(grants(each.get("PolicyDocument")) for each in documents))
    attached = (api.find("iam", "list_attached_role_policies", RoleName=role) or {}).get("AttachedPolicies", [])
    allowed |= {f"the policy {each['PolicyArn']}" for each in attached}
    wanted = grants(policy.worker(names, had.names["bucket"], had.names["function"]))
    advice = f"{REPAIR} sets the policy of a role that fsd made; remove other policies from role {role}"
    yield exactly("role: exactly the actions that workers use", allowed, wanted, "action", advice)


def _function(api: Api, had: Resources, names: Names) -> Iterator[Promise]:
    name = had.names["function"]
    found = api.call("lambda", "get_function_configuration", FunctionName=name)
    yield same("function: runs as the app's role", {name: found.get("Role")}, had.names["role"])
    yield same("function: environment encrypted at rest", {name: found.get("KMSKeyArn") or KEYS}, names.kms_key or KEYS)
    resource = (api.find("lambda", "get_policy", FunctionName=name) or {}).get("Policy")
    advice = f"remove each statement: aws lambda remove-permission --function-name {name} --statement-id ID"
    yield exactly("function: nobody outside the account invokes it", grants(resource and json.loads(resource)), (), STATEMENT, advice)
    group = policy.log_group(name)
    groups = api.pages("logs", "describe_log_groups", "logGroups", "nextToken", logGroupNamePrefix=group)
    logs: Mapping[str, Any] = next((each for each in groups if each["logGroupName"] == group), {})
    days = f"{logs['retentionInDays']} days" if "retentionInDays" in logs else "for ever" if logs else "no log group"
    yield same("logs: encrypted at rest", {group: logs.get("kmsKeyId") or KEYS}, names.kms_key or KEYS)
    yield same("logs: retention", {group: days}, f"{LOGS_KEPT_DAYS} days")
    yield told("function: last change", f"{found['LastModified']}{_who(api, name)}")


def _who(api: Api, function: str) -> str:
    """Who changed the function last, and by which request, from CloudTrail, which keeps such events for 90 days."""
    try:
        which = [{"AttributeKey": "ResourceName", "AttributeValue": function}]
        events = api.call("cloudtrail", "lookup_events", LookupAttributes=which, MaxResults=50).get("Events", [])
    except DriverError as error:
        if error.code in TRANSIENT:
            raise
        return f"; CloudTrail does not say by whom: {error.message}"
    writes = [event for event in events if event.get("ReadOnly") == "false"]
    return f" by {writes[0].get('Username')} ({writes[0]['EventName']})" if writes else "; CloudTrail names nobody for it"
