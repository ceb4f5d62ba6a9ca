"""The codes of Google Cloud's errors: one table for the services' error codes and HTTP statuses, one for the SDKs' exceptions.

Services answer with the names of google.rpc.Code, over gRPC as well as over HTTP. Cloud Storage also has its own error codes ("reasons").
"""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any

from google.auth import exceptions as auth
from requests import exceptions as http
from urllib3.exceptions import HTTPError  # raised while a body is read in one piece

from fsd_core.driver import Code
from fsd_core.providers.advice import CLOCK, PROXY, advise
from fsd_core.providers.codes import Codes

__all__ = ["CODES", "Answered", "advice", "classify"]


class Answered(Exception):
    """An error that a service answered.

    ``word``: the error code, a name of google.rpc.Code or a reason of Cloud Storage. ``said``: the service's text. ``status``: the HTTP
    status, 0 for gRPC.
    """

    def __init__(self, word: str, said: str, status: int = 0) -> None:
        super().__init__(word, said, status)
        self.word, self.said, self.status = word, said, status

    def __str__(self) -> str:
        return " ".join(filter(None, [str(self.status or ""), self.word])) + f": {self.said}"

    @staticmethod
    def grpc(error: Any) -> Answered:
        """The error in ``error``, an exception of gRPC."""
        return Answered(error.code().name, " ".join((error.details() or "").split()))

    @staticmethod
    def http(status: int, body: bytes) -> Answered:
        """The error in an HTTP answer. The body is JSON with the key ``error``, or a short text, or the web page of a front end."""
        try:
            error = json.loads(body)["error"]
            word = error.get("status") or next((each["reason"] for each in error.get("errors", ())), "")
            said, details = str(error.get("message", "")), error.get("details", ())
        except (ValueError, KeyError, TypeError, AttributeError):
            word, said, details = "", body[:300].decode(errors="replace"), ()
        reasons = [each["reason"] for each in details if isinstance(each, dict) and "reason" in each]  # entries google.rpc.ErrorInfo
        return Answered(str(word), " ".join([*said.split(), *(f"({reason})" for reason in reasons)])[:1000], status)


_WORDS = {
    Code.THROTTLED: """RESOURCE_EXHAUSTED rateLimitExceeded userRateLimitExceeded quotaExceeded dailyLimitExceeded tooManyRequests
        concurrentLimitExceeded""",
    Code.NOT_FOUND: "NOT_FOUND notFound",
    Code.ALREADY_EXISTS: "ALREADY_EXISTS conditionNotMet conflict",  # conditionNotMet: a put with if_absent; conflict: a bucket
    Code.DENIED: """PERMISSION_DENIED UNAUTHENTICATED forbidden insufficientPermissions authError accessNotConfigured
        accountDisabled UserProjectAccountProblem""",
    Code.UNAVAILABLE: "UNAVAILABLE DEADLINE_EXCEEDED ABORTED CANCELLED INTERNAL UNKNOWN DATA_LOSS backendError internalError",
    Code.TOO_LARGE: "uploadTooLarge",
    Code.INVALID: "INVALID_ARGUMENT OUT_OF_RANGE UNIMPLEMENTED invalid parseError badRequest invalidParameter",
    Code.PRECONDITION: "FAILED_PRECONDITION",
}
_STATUS = {412: Code.ALREADY_EXISTS}  # a put with if_absent of a key that exists
_EXCEPTIONS = (  # the first match counts
    (auth.TransportError, Code.UNAVAILABLE),
    (auth.GoogleAuthError, Code.DENIED),
    (http.InvalidURL, Code.INVALID),
    ((http.RequestException, HTTPError, HTTPException, ConnectionError, TimeoutError), Code.UNAVAILABLE),
)
CODES = Codes(_WORDS, _EXCEPTIONS, _STATUS)


def classify(error: BaseException) -> Code:
    """The `Code` of an error that a driver of this provider raised; UNKNOWN for any other exception."""
    if isinstance(error, Answered):
        damaged = error.status == 400 and "match calculated" in error.said  # the body changed in transit
        return Code.UNAVAILABLE if damaged else CODES.answer(error.status, error.word)
    if isinstance(error, auth.GoogleAuthError) and error.retryable:
        return Code.UNAVAILABLE
    return CODES.error(error)


_LOGIN = "gcloud auth application-default login"
_DISABLED = r"has not been used in project|SERVICE_DISABLED|accessNotConfigured"
_APIS = (
    *("pubsub", "storage", "cloudfunctions", "run", "cloudbuild", "artifactregistry"),
    *("iam", "cloudresourcemanager", "serviceusage", "cloudkms"),
)
_ADVICE = (  # a pattern of an error's text, and what to do; the first match counts
    (r"short-lived token|iat and exp|Token used too early|Token expired", CLOCK),
    (
        r"DefaultCredentialsError: (?!Your default credentials were not found)\W*\w+|MalformedError|InvalidValue",
        f"the file of credentials cannot be used: set GOOGLE_APPLICATION_CREDENTIALS to another file, or run '{_LOGIN}' again",
    ),
    (
        r"RefreshError: (File|Unable|Could not|Executable)\b",
        "the source of the Google Cloud credentials gives none: repair it, or use another source",
    ),
    (
        r"DefaultCredentialsError|MutualTLSChannelError|ClientCertError",
        f"no Google Cloud credentials are found: run '{_LOGIN}', or set GOOGLE_APPLICATION_CREDENTIALS to a service account's file",
    ),
    (
        r"RefreshError|invalid_grant|ReauthFailError|ReauthSamlChallengeFailError|UNAUTHENTICATED|authError",
        f"the Google Cloud credentials expired, or were revoked: run '{_LOGIN}' again",
    ),
    (
        r"requires a quota project",  # its text also holds SERVICE_DISABLED, about a project that belongs to Google
        "the login names no project for its quota: run 'gcloud auth application-default set-quota-project PROJECT'",
    ),
    *(
        (
            rf"(?s:({_DISABLED}).*\b{api}\.googleapis\.com)",
            f"an API of the project is off: run 'gcloud services enable {api}.googleapis.com', and wait a minute",
        )
        for api in _APIS
    ),
    (_DISABLED, f"an API of the project is off: run 'gcloud services enable {' '.join(f'{api}.googleapis.com' for api in _APIS[:6])}'"),
    (
        r"BILLING_DISABLED|UserProjectAccountProblem|accountDisabled|billing account[^.]*(disabled|not found|absent|closed)",
        "the project has no billing account: link one with 'gcloud billing projects link'",
    ),
    (
        r"CONSUMER_INVALID|USER_PROJECT_DENIED|[Pp]roject \S+ (was )?not found|[Pp]roject not found|[Ii]nvalid project|Unknown project id"
        r"|project \S+ has been deleted",
        "the project does not exist, or these credentials have no access to it: set [gcp] project to one that 'gcloud projects list' shows",
    ),
    (
        r"(?i:cloudkms ?key|cryptokeys?\S* .*(disabled|destroyed)|kms key .*(disabled|destroyed|not found))",
        "the key of the app, [gcp] kms_key, cannot be used: enable its version again ('gcloud kms keys versions enable'), and check the "
        "roles of the services on it; without the key, what it encrypted is lost",
    ),
    (
        r"RESOURCE_EXHAUSTED|[Qq]uota exceeded|quotaExceeded|[rR]ateLimitExceeded|429",
        "a quota of the project is used up: run fewer workers, or request a larger quota ('gcloud alpha services quota list' shows them)",
    ),
    (
        "getOpenIdToken",
        "a user starts functions with a token of the app's service account: request roles/iam.serviceAccountOpenIdTokenCreator on this "
        "account (docs/how-to-gcp.md)",
    ),
    (
        r"PERMISSION_DENIED|forbidden|insufficientPermissions|does not have \S+ access|403",
        "the credentials lack a permission: docs/how-to-gcp.md lists all that are needed; a change takes some minutes",
    ),
    (
        r"Resource not found|(Topic|Subscription) (not found|does not exist)|bucket does not exist|Requested entity was not found",
        "a resource of the app is gone, or in another project: run 'fsd destroy', then 'fsd deploy --provider gcp'",
    ),
    (r"ProxyError|Unable to connect to proxy", PROXY),
    (
        r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|failed to connect to all addresses|DNS resolution failed",
        "the service cannot be reached: check the network, and for an emulator PUBSUB_EMULATOR_HOST and STORAGE_EMULATOR_HOST",
    ),
)


def advice(error: BaseException | str) -> str | None:
    """One line on what a person can do about an error of Google Cloud, or None without advice: see `fsd_core.providers.advice.advise`."""
    return advise(_ADVICE, error)
