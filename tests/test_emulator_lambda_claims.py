"""What the local Lambda claims holds, and whatever else would change an answer is refused by name: the service's model is walked."""

from __future__ import annotations

import base64
import io
import json
import platform
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import botocore.session
import pytest
from botocore.exceptions import ClientError

from fsd_conformance.emulators import lambda_claims as claims
from fsd_conformance.emulators.lambda_store import ServiceError, check_code
from function_host import package
from lambda_emulator import ROLE, ZIP, Emulator
from waiting import until

MODEL = botocore.session.get_session().get_service_model("lambda")
CLAIMED = {each.name: each for each in claims.OPERATIONS}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator.running("--code", "zip", "--cold", "spawn") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def name(emulator: Emulator) -> str:
    return emulator.create(Handler="handler.handler")


def code_of(call: Callable[..., Any], **arguments: Any) -> str:
    """The error's code, or what says that there was none."""
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "accepted"


def send(emulator: Emulator, method: str, path: str, body: Any = None, headers: Any = ()) -> tuple[int, str]:
    """One request by hand: status, body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(emulator.ready["endpoint"] + path, data, dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def uri(operation: Any, name: str) -> str:
    """A path of an operation's, its places filled."""
    return str(operation.http["requestUri"]).partition("?")[0].replace("{FunctionName}", name).replace("{Resource}", name)


def value(shape: Any) -> Any:
    """Something that a member of the model could hold."""
    if shape.type_name == "structure":
        return {member: value(inner) for member, inner in list(shape.members.items())[:1]}
    if shape.type_name == "list":
        return [value(shape.member)]
    return {"map": {"k": "v"}, "boolean": True, "integer": 7, "long": 7}.get(shape.type_name, "x")


# the list


@pytest.mark.parametrize("operation", sorted({*MODEL.operation_names, *claims.OPERATIONS_REFUSED} - CLAIMED.keys()))
def test_an_operation_that_is_not_claimed_is_refused(emulator: Emulator, operation: str) -> None:
    model = MODEL.operation_model(operation)
    status, said = send(emulator, model.http["method"], uri(model, "f").replace("{", "").replace("}", ""), {})
    assert (status, "not implemented by the local Lambda" in said) == (501, True)


def test_every_claimed_operation_and_what_it_heeds_is_one_of_the_services() -> None:
    assert CLAIMED.keys() <= set(MODEL.operation_names)
    assert not CLAIMED.keys() & claims.OPERATIONS_REFUSED
    for each in claims.OPERATIONS:
        members = _members(each.name)
        assert each.fields | each.parameters | each.headers <= {key.lower() if how == "header" else key for how, key, _ in members}, each


def _members(operation: str) -> list[tuple[str, str, Any]]:
    """Of an operation's input: its place, its name and its shape."""
    shape = MODEL.operation_model(operation).input_shape
    found = []
    for member, inner in (shape.members if shape else {}).items():
        where = inner.serialization.get("location", "body")
        payload = member == shape.serialization.get("payload")
        if where != "uri" and not payload:
            found.append((where, inner.serialization.get("name", member), inner))
    return found


@pytest.mark.parametrize("operation", sorted(CLAIMED))
def test_what_an_operation_does_not_claim_is_refused(emulator: Emulator, name: str, operation: str) -> None:
    """Of the service's model, of the written list, and what nobody has heard of."""
    claimed, model = CLAIMED[operation], MODEL.operation_model(operation)
    arn = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
    path = uri(model, quote(arn if "tags" in claimed.path else name))
    unclaimed = [
        (where, key, value(shape))
        for where, key, shape in _members(operation)
        if key.lower() not in claimed.headers and key not in claimed.fields | claimed.parameters
    ]
    told = {key for _, key, _ in unclaimed}
    assert claims.REFUSED.get(operation, frozenset()) >= told - {"AcceleratorConfig"}, "the list lacks what the service's model has"
    unclaimed += [("querystring", "Invented", "x"), ("header", "X-Amz-Invented", "x")]
    unclaimed += [("body", "Invented", "x")] if claimed.fields else []
    unclaimed += [("body", key, {"x": 1}) for key in claims.REFUSED.get(operation, frozenset()) - told if not key.startswith("X-")]
    for where, key, something in unclaimed:
        if where == "body" and not claimed.fields:  # its body is the function's own event, or none
            where = "querystring"
        whole: dict[str, Any] = {"Runtime": "python3.11", "Role": ROLE, "Handler": "h.h", "FunctionName": "new", "Code": {"ZipFile": ""}}
        body = ({**whole, key: something} if operation == "CreateFunction" else {key: something}) if where == "body" else None
        query = urlencode({key: something}) if where == "querystring" else ""
        status, said = send(emulator, claimed.method, f"{path}?{query}", body, {key: "x"} if where == "header" else {})
        assert (status, "not implemented by the local Lambda" in said, key.lower() in said.lower()) == (501, True, True), (where, key, said)
    assert code_of(emulator.client.get_function, FunctionName=name) == "accepted"
    assert code_of(emulator.client.get_function, FunctionName="new") == "ResourceNotFoundException"


def test_a_source_of_code_that_is_not_claimed_is_refused(emulator: Emulator, name: str) -> None:
    members = MODEL.shape_for("FunctionCode").members
    for key in sorted({*members, *claims.CODE_REFUSED} - claims.CODE):
        assert key in claims.CODE_REFUSED
        with pytest.raises(ClientError, match=f"{key} is not implemented by the local Lambda"):
            emulator.create("new", Code={"ZipFile": ZIP, key: "x"})
    for architectures in (["z80"], ["arm64"]) if platform.machine() == "x86_64" else (["z80"],):
        with pytest.raises(ClientError, match="rchitectures"):
            emulator.client.update_function_code(FunctionName=name, ZipFile=ZIP, Architectures=architectures)
    assert code_of(emulator.client.update_function_code, FunctionName=name, ZipFile=ZIP, Architectures=["x86_64"]) == "accepted"


@pytest.mark.parametrize(
    "nothing",
    [
        {"Layers": [], "VpcConfig": {"SubnetIds": [], "SecurityGroupIds": []}, "DeadLetterConfig": {}, "KMSKeyArn": ""},
        {"Publish": False, "PackageType": "Zip", "SnapStart": {"ApplyOn": "None"}},
        {"TracingConfig": {"Mode": "PassThrough"}, "EphemeralStorage": {"Size": 512}, "LoggingConfig": {"LogFormat": "Text"}},
    ],
)
def test_what_says_nothing_is_taken(emulator: Emulator, nothing: dict[str, Any]) -> None:
    emulator.client.delete_function(FunctionName=emulator.create(Handler="handler.handler", **nothing))


# qualifiers and ARNs


def test_latest_is_the_one_qualifier(emulator: Emulator, name: str) -> None:
    client = emulator.client
    plain = client.get_function_configuration(FunctionName=name)["FunctionArn"]
    assert plain.endswith(f":{name}")
    for there in (client.get_function_configuration, client.get_function):
        for asked in (
            {"FunctionName": name, "Qualifier": "$LATEST"},
            {"FunctionName": f"{plain}:$LATEST"},
            {"FunctionName": f"{name}:$LATEST"},
        ):
            told = there(**asked)
            assert told.get("Configuration", told)["FunctionArn"] == f"{plain}:$LATEST"
        assert code_of(there, FunctionName=f"{name}:$LATEST", Qualifier="7") == "InvalidParameterValueException"
        for qualifier in ("1221", "alias"):
            assert code_of(there, FunctionName=name, Qualifier=qualifier) == "ResourceNotFoundException"
            assert code_of(there, FunctionName=f"{plain}:{qualifier}") == "ResourceNotFoundException"
        assert code_of(there, FunctionName=name, Qualifier="a b") == "ValidationException"
    for call, more in (
        (client.invoke, {"Payload": "{}"}),
        (client.put_function_event_invoke_config, {"MaximumRetryAttempts": 0}),
        (client.update_function_event_invoke_config, {"MaximumRetryAttempts": 0}),
        (client.get_function_event_invoke_config, {}),
        (client.delete_function_event_invoke_config, {}),
    ):
        assert code_of(call, FunctionName=name, Qualifier="1221", **more) == "ResourceNotFoundException", call
    told = json.load(client.invoke(FunctionName=name, Qualifier="$LATEST", Payload="{}")["Payload"])
    assert told == "from the zip"


def test_a_function_hears_by_which_name_it_was_called(emulator: Emulator) -> None:
    code = package({"handler.py": "def handler(event, context): return context.invoked_function_arn"})
    own = emulator.create(Handler="handler.handler", Code={"ZipFile": code})
    whole = f"arn:aws:lambda:us-east-1:123456789012:function:{own}"
    for asked, told in (({}, whole), ({"Qualifier": "$LATEST"}, f"{whole}:$LATEST"), ({}, whole)):
        assert json.load(emulator.client.invoke(FunctionName=own, Payload="{}", **asked)["Payload"]) == told


def test_what_a_version_does_not_have_is_refused_for_a_qualified_name(emulator: Emulator, name: str) -> None:
    client = emulator.client
    arn = f"{client.get_function_configuration(FunctionName=name)['FunctionArn']}:$LATEST"
    for call, more in (
        (client.put_function_concurrency, {"ReservedConcurrentExecutions": 0}),
        (client.delete_function_concurrency, {}),
        (client.get_function_concurrency, {}),
        (client.update_function_configuration, {"Timeout": 5}),
        (client.update_function_code, {"ZipFile": ZIP}),
        (client.put_function_recursion_config, {"RecursiveLoop": "Allow"}),
        (client.get_function_recursion_config, {}),
    ):
        assert code_of(call, FunctionName=arn, **more) == "InvalidParameterValueException", call
    for call, more in ((client.list_tags, {}), (client.tag_resource, {"Tags": {"a": "b"}}), (client.untag_resource, {"TagKeys": ["a"]})):
        assert code_of(call, Resource=arn, **more) == "InvalidParameterValueException", call


def test_deleting_a_version_leaves_the_function(emulator: Emulator) -> None:
    client, own = emulator.client, emulator.create(Handler="handler.handler")
    client.delete_function(FunctionName=own, Qualifier="1221")
    client.delete_function(FunctionName=f"{own}:7")
    assert code_of(client.delete_function, FunctionName=own, Qualifier="$LATEST") == "InvalidParameterValueException"
    assert code_of(client.delete_function, FunctionName=own, Qualifier="alias") == "ResourceNotFoundException"
    assert code_of(client.get_function, FunctionName=own) == "accepted"
    client.delete_function(FunctionName=own)
    assert code_of(client.delete_function, FunctionName=own, Qualifier="1221") == "ResourceNotFoundException"


def test_another_regions_or_accounts_arn_is_out_of_reach(emulator: Emulator, name: str) -> None:
    for arn in (f"arn:aws:lambda:ap-southeast-1:123456789012:function:{name}x", f"arn:aws:lambda:us-east-1:210987654321:function:{name}x"):
        new = {"Runtime": "python3.11", "Role": ROLE, "Handler": "h.h", "Code": {"ZipFile": ZIP}}
        assert code_of(emulator.client.create_function, FunctionName=arn, **new) == "ResourceNotFoundException"
        assert code_of(emulator.client.get_function, FunctionName=arn) == "ResourceNotFoundException"
    assert code_of(emulator.client.get_function, FunctionName=f"{name}x") == "ResourceNotFoundException"
    whole = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
    assert code_of(emulator.client.get_function, FunctionName=whole.replace("us-east-1", "eu-west-1")) == "ResourceNotFoundException"
    assert code_of(emulator.client.get_function, FunctionName=whole) == "accepted"
    assert code_of(emulator.create, name=f"{whole}:$LATEST") == "InvalidParameterValueException"


# limits


def test_sizes_of_code(emulator: Emulator) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        made.writestr("handler.py", bytes(262_144_000))
    assert code_of(emulator.create, Code={"ZipFile": data.getvalue()}) == "InvalidParameterValueException"
    over = ZIP + bytes(52_428_801 - len(ZIP))
    with pytest.raises(ServiceError, match="52428801") as refused:  # not through the service: 70 MB on their way take seconds
        check_code(over, sent=True)
    assert (refused.value.status, refused.value.code) == (413, "RequestEntityTooLargeException")
    with pytest.raises(ServiceError, match="unzip"):  # from a bucket it may be larger: this one is no zip
        check_code(over, sent=False)


def test_one_source_of_code_with_something_in_it(emulator: Emulator, name: str) -> None:
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    for wrong in ({"ZipFile": empty.getvalue()}, {"ZipFile": ZIP, "S3Bucket": "bucket", "S3Key": "key"}):
        assert code_of(emulator.create, name="new", Code=wrong) == "InvalidParameterValueException"
        assert code_of(emulator.client.update_function_code, FunctionName=name, **wrong) == "InvalidParameterValueException"
    assert code_of(emulator.create, name="new", Description="x" * 257) == "ValidationException"
    status, _ = send(emulator, "PUT", f"/2015-03-31/functions/{name}/configuration", {"Timeout": True})
    assert status == 400


@pytest.mark.parametrize(
    "event", [b'{"a": NaN}', '{"a": 1}'.encode("utf-16"), b"\xff", b"[" * 100_000], ids=["nan", "utf-16", "bytes", "deep"]
)
def test_an_event_is_json_in_utf_8(emulator: Emulator, name: str, event: bytes) -> None:
    assert code_of(emulator.client.invoke, FunctionName=name, Payload=event) == "InvalidRequestContentException"


def test_who_waits_for_an_answer_may_tell_a_context(emulator: Emulator, tmp_path: Path) -> None:
    text = (
        "import os\n"
        "def handler(event, context):\n"
        "    told = context.client_context and context.client_context.custom\n"
        "    with open(event['file'] + '.new', 'w') as file:\n"
        "        file.write(repr(told))\n"
        "    os.replace(event['file'] + '.new', event['file'])\n"
    )
    own = emulator.create(Handler="handler.handler", Code={"ZipFile": package({"handler.py": text})})
    context = base64.b64encode(json.dumps({"custom": {"a": "b"}}).encode()).decode()
    for kind, heard in (("RequestResponse", "{'a': 'b'}"), ("Event", "None")):
        file = tmp_path / kind
        emulator.client.invoke(FunctionName=own, InvocationType=kind, ClientContext=context, Payload=json.dumps({"file": str(file)}))
        until(file.exists)
        assert file.read_text() == heard
    assert code_of(emulator.client.invoke, FunctionName=own, ClientContext="e30=" * 896) == "InvalidParameterValueException"
    assert code_of(emulator.client.invoke, FunctionName=own, LogType="Head") == "ValidationException"


def test_fifty_tags_at_most(emulator: Emulator, name: str) -> None:
    arn = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
    many = {f"k{number}": "v" for number in range(51)}
    assert code_of(emulator.client.tag_resource, Resource=arn, Tags=many) == "InvalidParameterValueException"
    assert emulator.client.list_tags(Resource=arn)["Tags"] == {}
    emulator.client.tag_resource(Resource=arn, Tags=dict(list(many.items())[:50]))
    emulator.client.tag_resource(Resource=arn, Tags={"k0": "other"})
    assert code_of(emulator.client.tag_resource, Resource=arn, Tags={"more": "v"}) == "InvalidParameterValueException"
    assert len(emulator.client.list_tags(Resource=arn)["Tags"]) == 50
    emulator.client.untag_resource(Resource=arn, TagKeys=list(many))
    assert code_of(emulator.create, name="new", Tags=many) == "InvalidParameterValueException"
    for wrong in ({"aws:x": "v"}, {"k" * 129: "v"}, {"k": "v" * 257}):
        assert code_of(emulator.client.tag_resource, Resource=arn, Tags=wrong) == "InvalidParameterValueException"


def test_sizes_of_answers(emulator: Emulator) -> None:
    """6 MiB of text and its quotation marks arrive; more, and far more, is an error of the function's that says so."""
    code = package({"handler.py": "def handler(event, context):\n    return 'a' * event['n']\n"})
    own = emulator.create(Handler="handler.handler", Code={"ZipFile": code})
    for size in (6 << 20, 6_291_554):
        assert len(emulator.call(own, n=size)) == size
    for size in (6_291_555, 7 << 20, 20 << 20):
        assert emulator.fails(own, n=size)["errorType"] == "Function.ResponseSizeTooLarge"


# settings of events


def test_the_settings_of_events(emulator: Emulator, name: str) -> None:
    client = emulator.client
    made = client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=1)
    told = client.get_function_event_invoke_config(FunctionName=name)
    assert made["DestinationConfig"] == told["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": {}}
    assert "MaximumEventAgeInSeconds" not in told
    for malformed in ("x", "arn:aws:_-/!lambda:us-east-1:123456789012:function:f"):
        for which in ("OnFailure", "OnSuccess"):
            destination = {which: {"Destination": malformed}}
            wrong = code_of(client.put_function_event_invoke_config, FunctionName=name, DestinationConfig=destination)
            assert wrong == "ValidationException"
    for elsewhere in ("arn:aws:lambda:us-east-1:123456789012:function:f", "arn:aws:events:us-east-1:123456789012:event-bus/b"):
        with pytest.raises(ClientError, match="not implemented by the local Lambda"):
            client.put_function_event_invoke_config(FunctionName=name, DestinationConfig={"OnFailure": {"Destination": elsewhere}})
    queue = {"Destination": "arn:aws:sqs:us-east-1:123456789012:q"}
    with pytest.raises(ClientError, match="OnSuccess is not implemented by the local Lambda"):
        client.put_function_event_invoke_config(FunctionName=name, DestinationConfig={"OnSuccess": queue})
    path = f"/2019-09-25/functions/{name}/event-invoke-config"
    for invented in ({"OnFailure": {**queue, "Invented": "x"}}, {"Invented": queue}):
        status, said = send(emulator, "PUT", path, {"DestinationConfig": invented})
        assert (status, "Invented is not implemented by the local Lambda" in said) == (501, True)
    client.update_function_event_invoke_config(FunctionName=name, DestinationConfig={"OnFailure": queue})
    assert client.get_function_event_invoke_config(FunctionName=name)["DestinationConfig"] == {"OnSuccess": {}, "OnFailure": queue}
    client.delete_function_event_invoke_config(FunctionName=name)
