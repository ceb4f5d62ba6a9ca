"""What Azure answers while it makes things, and how it is waited for: a Resource Manager and other services that say what a case needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from canned import NOBODY, Answer, Request, answering, said, serving
from fsd_azure import PROVIDER, api, clients, connection_strings, function, queues
from fsd_azure.api import Api
from fsd_azure.provision import AzureProvisioner
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.process import POINTERS
from fsd_core.driver import Code
from fsd_core.errors import DriverError
from fsd_core.providers.package import stub

BUS = "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=v"
NO_ANSWER = Answer(404)
IN_PLACE, BUILDING = said({"status": 4}), said({"status": 1})


@contextmanager
def asking(manager: str = NOBODY, administration: str = "") -> Iterator[Api]:
    """Requests to a Resource Manager that is at this address, and to an administration of queues."""
    env = {"AZURE_SUBSCRIPTION_ID": "0" * 8 + "-0000-0000-0000-000000000000", api.ENDPOINT: manager, connection_strings.SERVICE_BUS: BUS}
    at = {connection_strings.ADMINISTRATION: administration.removeprefix("http://")} if administration else {}
    with pointed({**env, **at}, POINTERS["azure"]), AzureProvisioner({}, PROVIDER).requests() as requests:
        requests.within(120)
        yield requests


# code that is sent to a function app


class Deployments:
    """A deployment service: ``state`` gives the answer about the newest deployment, from its number and from how often it was requested."""

    def __init__(self, state: Callable[[int, int], Answer], first: Answer | None = None) -> None:
        self.sent = 0
        self._state, self._first, self._looks = state, first, Counter[int]()

    def __call__(self, request: Request) -> Answer:
        if request.method == "POST":
            self.sent += 1
            return self._first if self._first and self.sent == 1 else said(str(self.sent), 202)
        self._looks[self.sent] += 1
        return self._state(self.sent, self._looks[self.sent])

    @contextmanager
    def publishing(self, settling: bool = True) -> Iterator[tuple[Callable[[], None], Api]]:
        """What sends code to it. ``settling``: roles may not be in force yet."""
        with serving(self) as url, asking() as requests:
            if settling:
                requests.settling()
            site = {"name": "f", "properties": {"hostNameSslStates": [{"name": url.removeprefix("http://"), "hostType": "Repository"}]}}
            yield lambda: function.publish(requests, site, stub("azure")), requests


def failed(words: str) -> Answer:
    return said({"status": 3, "status_text": words})


def test_code_that_the_sites_identity_may_not_store_yet_is_sent_again() -> None:
    refused = failed("[StorageAccessibleCheck] Error while checking access: Status: 403 (Forbidden)")
    service = Deployments(lambda sent, looks: IN_PLACE if sent == 3 else refused)
    with service.publishing(settling=False) as (publish, requests):
        with pytest.raises(DriverError, match=r"sending the code to function app f: failed: \[StorageAccessibleCheck\]"):
            publish()
        assert service.sent == 1
        requests.settling()
        publish()
    assert service.sent == 3


@pytest.mark.parametrize(
    "words",
    [
        "InaccessibleStorageException: Failed to access storage account for deployment: BlobUploadFailedException",
        "MSITokenUnavailableException: no token",
        "[StorageAccessibleCheck] Unable to fetch MSI token",
        "Name or service not known (fsdx.blob.core.windows.net:443)",
    ],
)
def test_what_is_refused_while_an_account_and_an_identity_settle_passes(words: str) -> None:
    service = Deployments(lambda sent, looks: IN_PLACE if sent == 2 else failed(words))
    with service.publishing() as (publish, _):
        publish()
    assert service.sent == 2


@pytest.mark.parametrize("nothing", [NO_ANSWER, said({})], ids=["404", "says nothing"])
def test_code_is_sent_again_where_the_state_of_its_deployment_was_forgotten(monkeypatch: pytest.MonkeyPatch, nothing: Answer) -> None:
    """The instance with the state is gone: from then on the answer is 404, or has no state."""
    monkeypatch.setattr(function, "FORGOTTEN_S", 0.3)
    service = Deployments(lambda sent, looks: IN_PLACE if sent == 3 else BUILDING if looks == 1 else nothing)
    with service.publishing() as (publish, _):
        publish()
    assert service.sent == 3


def test_a_deployment_that_is_always_forgotten_is_said_long_before_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "FORGOTTEN_S", 0.1)
    service = Deployments(lambda sent, looks: NO_ANSWER)
    says = r"function app f: Azure forgot the deployment 3 times: run 'fsd deploy' again"
    with service.publishing() as (publish, _), pytest.raises(DriverError, match=says) as raised:
        publish()
    assert raised.value.code is Code.UNAVAILABLE
    assert service.sent == 3


def test_a_deployment_that_met_another_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "AGAIN_S", 0.1)
    conflict = Answer(409, b"There is a deployment currently in progress.")
    service = Deployments(lambda sent, looks: IN_PLACE if sent == 3 else said({"status": 5}), first=conflict)
    with service.publishing() as (publish, _):
        publish()
    assert service.sent == 3


# operations that go on after their answer

FAILED = {"status": "Failed", "error": {"code": "QuotaExceeded", "message": "no room"}}


def begun(request: Request, header: str) -> Answer:
    """That what was asked goes on, and where it says how it is."""
    return said({}, 202, {header: f"http://{request.headers['host']}/subscriptions/s/operationresults/1?api-version=1"})


@pytest.mark.parametrize("header", ["Azure-AsyncOperation", "Location"])
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_an_operation_that_fails_later_says_why(method: str, header: str) -> None:
    """And leaves nothing, or what was to go: the resource alone would be waited for until the deadline."""

    def see(request: Request) -> Answer:
        if request.method == method:
            return begun(request, header)
        if "operationresults" in request.path:
            return said(FAILED, 200 if header == "Azure-AsyncOperation" else 409)
        return NO_ANSWER if method == "PUT" else said({})

    with serving(see) as url, asking(url) as requests, pytest.raises(DriverError, match=r"ing /serverfarms/x: .*QuotaExceeded.*no room"):
        requests.put("/serverfarms/x", {}) if method == "PUT" else requests.delete("/serverfarms/x")


def test_what_an_operation_does_not_tell_the_resource_does() -> None:
    shown = [NO_ANSWER, *(said({"properties": {"provisioningState": state}}) for state in ("Accepted", "Succeeded"))]

    def see(request: Request) -> Answer:
        if request.method == "PUT":
            return begun(request, "Azure-AsyncOperation")
        return Answer(403) if "operationresults" in request.path else shown.pop(0)

    with serving(see) as url, asking(url) as requests:
        assert requests.put("/serverfarms/x", {})
    assert shown == []


def test_a_group_of_many_resources_is_listed_whole() -> None:
    def see(request: Request) -> Answer:
        assert "/resourceGroups/fsd-x/resources" in request.path
        last = "skiptoken" in request.path
        more = {} if last else {"nextLink": f"http://{request.headers['host']}{request.path}&$skiptoken=1"}
        return said({"value": [{"id": f"/r/{int(last)}", "tags": {"fsd-app": "x"}}], **more})

    with serving(see) as url, asking(url) as requests:
        assert requests.owned("x") == (["/r/0", "/r/1"], [])


# the administration of queues


def xml(text: str, status: int = 200) -> Answer:
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


def refusal(status: int, detail: str) -> Answer:
    return xml(f"<Error><Code>{status}</Code><Detail>{detail}</Detail></Error>", status)


def test_a_queue_that_is_being_changed_is_no_queue_that_is_there() -> None:
    changed = refusal(409, "SubCode=40901. Another conflicting operation is in progress.")
    there = refusal(409, "SubCode=40900. Conflict. It is there.")
    with (
        answering(changed, changed, there) as (url, asked),
        asking(administration=url) as requests,
        clients.administration(("x",), 0) as admin,
    ):
        assert requests.unless(Code.ALREADY_EXISTS, "queue q", lambda: admin.create_queue("q")) is None
    assert [each.method for each in asked] == 3 * ["PUT"]


@pytest.mark.parametrize(
    "denied",
    [
        refusal(401, "Manage,EntityRead claims required for this operation. TrackingId:1_G2"),
        refusal(403, "Authorization failed for specified action: Manage,EntityRead. TrackingId:1_G2"),
    ],
    ids=["401", "403"],
)
def test_the_administration_of_queues_settles_like_the_rest(denied: Answer) -> None:
    """Its refusal while a role is not in force yet, with the SDK that there is."""
    none = xml('<feed xmlns="http://www.w3.org/2005/Atom"/>')
    with answering(denied, denied, denied, none) as (url, asked), asking(administration=url) as requests:
        with pytest.raises(DriverError, match="lack the role Azure Service Bus Data Owner") as raised:
            queues.remove(requests, "x", connection_strings.service_bus_hosts())
        assert raised.value.code is Code.DENIED
        assert len(asked) == 1
        requests.settling()
        assert queues.remove(requests, "x", connection_strings.service_bus_hosts()) == []
        assert len(asked) == 4
