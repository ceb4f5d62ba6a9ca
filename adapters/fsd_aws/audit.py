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
from fsd_core.providers.promises import REPAIR, Promise, exactly, same, shown
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
    yield same("bucket: encrypted at rest", {name: default and _json(default)}, _json(bucket.encryption(names.kms_key)))
    found = read("get_bucket_policy").get("Policy")
    yield exactly(
        "bucket: policy refuses requests without TLS", grants(found and json.loads(found)), grants(policy.bucket(names, name)), STATEMENT
    )
    closed = read("get_public_access_block").get("PublicAccessBlockConfiguration", {})
    yield same("bucket: no public access", {setting: closed.get(setting) for setting in bucket.CLOSED}, True)
    access = read("get_bucket_acl")
    others = _others(access) if access else {"no bucket"}
    advice = f"aws s3api put-bucket-acl --bucket {name} --acl private"
    yield exactly("bucket: access list names nobody but the owner", others, (), "other entry", advice)
    rules = read("get_bucket_lifecycle_configuration").get("Rules", [])
    yield exactly("bucket: life cycle", deletions(rules), deletions(bucket.life_cycle(int(had.names[RETENTION]))), "rule")
    versions = api.find("s3", "get_bucket_versioning", Bucket=name)
    kept = None if versions is None else "kept as versions" if versions.get("Status") == "Enabled" else "not kept"
    command = f"aws s3api put-bucket-versioning --bucket {name} --versioning-configuration Status=Suspended"
    yield same("bucket: deleted objects are gone", {name: kept}, "not kept", f"{command}; then remove the old versions")


def _others(access: Mapping[str, Any]) -> set[str]:
    """The entries of a bucket's access list for others than its owner."""
    mine = access["Owner"]["ID"]
    every = [(each["Permission"], each["Grantee"]) for each in access["Grants"]]
    return {f"{verb} to {who.get('URI') or who.get('ID') or who.get('EmailAddress')}" for verb, who in every if who.get("ID") != mine}


def deletions(rules: Sequence[Mapping[str, Any]]) -> set[str]:
    """The rules of a life cycle that delete objects."""
    found = set()
    for rule in rules:
        if rule.get("Status") == "Enabled" and (ends := rule.get("Expiration", {})).keys() & {"Days", "Date"}:
            when = f"after {ends['Days']} days" if "Days" in ends else f"on {ends['Date']}"
            found.add(f"{_json(rule.get('Filter', {}))} deleted {when}")
    return found


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
    command = "aws sqs set-queue-attributes --queue-url URL --attributes KmsMasterKeyId="
    yield same("queues: encrypted at rest", encrypted, names.kms_key or "SSE-SQS", _keyed(names, command))
    yield _policies("queues: policies admit TLS and the app's topics only", found, wanted)
    yield exactly("queues: retention", _kept(found), _kept(wanted), "retention time")


def _kept(attributes: Mapping[str, Mapping[str, str]]) -> set[str]:
    return {f"{name} keeps messages for {each['MessageRetentionPeriod']} s" for name, each in attributes.items() if each}


def _keyed(names: Names, command: str) -> str:
    """The advice about a key: a deployment sets the app's key, but removes none. ``command`` removes a key."""
    return REPAIR if names.kms_key else f"{REPAIR}; where somebody set a key, remove it first: {command}"


def _topics(api: Api, had: Resources, names: Names) -> Iterator[Promise]:
    every = list(names.topics(had.ranks, had.slots))

    def read(name: str) -> dict[str, str]:
        return dict((api.find("sns", "get_topic_attributes", TopicArn=names.arn("sns", name)) or {}).get("Attributes", {}))

    found = dict(zip(every, api.each(read, every), strict=True))
    wanted = {name: queues.topic_attributes(names, name) for name in every}
    # Without a key, SNS encrypts its disks itself, and no attribute says so.
    keys = {name: None if not each else each.get("KmsMasterKeyId") or "disks of SNS" for name, each in found.items()}
    command = 'aws sns set-topic-attributes --topic-arn ARN --attribute-name KmsMasterKeyId --attribute-value ""'
    yield same("topics: encrypted at rest", keys, names.kms_key or "disks of SNS", _keyed(names, command))
    yield _policies("topics: policies refuse requests without TLS", found, wanted)


def _policies(name: str, found: Mapping[str, Mapping[str, str]], wanted: Mapping[str, Mapping[str, str]]) -> Promise:
    """The promise that the attribute Policy of each resource grants exactly what is wanted.

    Each line begins with the resource that has the policy: a policy that names another resource has no effect.
    """

    def every(attributes: Mapping[str, Mapping[str, str]]) -> set[str]:
        policies = {resource: json.loads(each["Policy"]) for resource, each in attributes.items() if each.get("Policy")}
        return {f"{resource}: {line}" for resource, document in policies.items() for line in grants(document)}

    return exactly(name, every(found), every(wanted), STATEMENT)


def _role(api: Api, had: Resources, names: Names) -> Iterator[Promise]:
    role = had.names["role"].rpartition("/")[2]
    there = api.find("iam", "get_role", RoleName=role)
    trusted = there and there["Role"].get("AssumeRolePolicyDocument")
    yield exactly("role: only Lambda assumes it", grants(trusted), grants(policy.trust()), STATEMENT)
    inline = api.pages("iam", "list_role_policies", "PolicyNames", "Marker", RoleName=role) if there else ()
    documents = [api.find("iam", "get_role_policy", RoleName=role, PolicyName=name) or {} for name in inline]
    allowed = set().union(*(grants(each.get("PolicyDocument")) for each in documents))
    attached = api.pages("iam", "list_attached_role_policies", "AttachedPolicies", "Marker", RoleName=role) if there else ()
    allowed |= {f"the policy {each['PolicyArn']}" for each in attached}
    wanted = grants(policy.worker(names, had.names["bucket"], had.names["function"]))
    advice = f"{REPAIR} sets the policy of a role that fsd made; remove other policies from role {role}"
    yield exactly("role: exactly the actions that workers use", allowed, wanted, "action", advice)


def _function(api: Api, had: Resources, names: Names) -> Iterator[Promise]:
    name = had.names["function"]
    found = api.call("lambda", "get_function_configuration", FunctionName=name)
    yield same("function: runs as the app's role", {name: found.get("Role")}, had.names["role"])
    used, command = found.get("KMSKeyArn") or KEYS, f'aws lambda update-function-configuration --function-name {name} --kms-key-arn ""'
    yield same("function: environment encrypted at rest", {name: used}, names.kms_key or KEYS, _keyed(names, command))
    advice = f"remove each statement: aws lambda remove-permission --function-name {name} --statement-id ID, with --qualifier for an alias"
    yield exactly("function: nobody outside the account invokes it", invokers(api, name), (), STATEMENT, advice)
    group = policy.log_group(name)
    used = found.get("LoggingConfig", {}).get("LogGroup") or group
    command = f"aws lambda update-function-configuration --function-name {name} --logging-config LogFormat=Text,LogGroup={group}"
    yield same("logs: in the app's log group", {name: used}, group, command)
    groups = api.pages("logs", "describe_log_groups", "logGroups", "nextToken", logGroupNamePrefix=group)
    logs: Mapping[str, Any] = next((each for each in groups if each["logGroupName"] == group), {})
    days = f"{logs['retentionInDays']} days" if "retentionInDays" in logs else "for ever" if logs else "no log group"
    key, command = logs.get("kmsKeyId") or KEYS, f"aws logs disassociate-kms-key --log-group-name {group}"
    yield same("logs: encrypted at rest", {group: key if logs else None}, names.kms_key or KEYS, _keyed(names, command))
    yield same("logs: retention", {group: days}, f"{LOGS_KEPT_DAYS} days")
    yield shown("function: last change", f"{found['LastModified']}{_who(api, name)}")


def invokers(api: Api, function: str) -> set[str]:
    """What the policies of the function, its aliases and its published versions grant: each has a policy besides that of the function."""
    aliases = api.pages("lambda", "list_aliases", "Aliases", "NextMarker", "Marker", FunctionName=function)
    versions = api.pages("lambda", "list_versions_by_function", "Versions", "NextMarker", "Marker", FunctionName=function)
    qualifiers = [*(each["Name"] for each in aliases), *(each["Version"] for each in versions if each["Version"] != "$LATEST")]
    found = set()
    for which in ({}, *({"Qualifier": each} for each in qualifiers)):
        document = (api.find("lambda", "get_policy", FunctionName=function, **which) or {}).get("Policy")
        found |= grants(document and json.loads(document))
    return found


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
