"""Makes the SDK's clients for the whole adapter. A client makes one attempt for each call, and has connections for all threads of fsd_core.
Importing this module makes no client.

This uses botocore, not boto3: the clients are the same, and a cold start is 20 to 40 ms shorter (benchmarks/object_clients.py: S3 in 180
instead of 220 ms, with SNS and SQS in 205 instead of 225 ms).
"""

from __future__ import annotations

import functools
import json
import os
import threading
from typing import Any

import botocore.session
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from fsd_core.errors import InputError
from fsd_core.providers.proxies import shown

__all__ = ["client", "connect", "credentials", "session", "source"]

CONNECT_S = 5.0
POOL = 64  # connections of a client: for fsd_core's 16 threads, 32 that send copies, 6 that receive, and some more; opened when needed
_creating = threading.Lock()  # clients are thread-safe, but a session is not


@functools.lru_cache(maxsize=4)
def _session(environment: frozenset[tuple[str, str]]) -> Any:
    return botocore.session.get_session()


def session() -> Any:
    """This process's session of botocore. It looks up credentials and service models once, and again after a variable AWS_* changed."""
    return _session(frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def credentials() -> str:
    """The source in the SDK's chain that has credentials, the key id (which is not secret), and the region.

    On a machine in AWS it may ask the metadata service (up to 1 s); otherwise it makes no request. Raises `NoCredentialsError` without
    credentials.
    """
    found = session().get_credentials()
    if found is None:
        raise NoCredentialsError
    profile = session().profile
    parts = [f"by {found.method}" + (f", profile {profile}" if profile else "")]
    if type(found) is Credentials:  # other classes request the key from a service when it is first read
        parts.append(f"key id {found.access_key}")
    return ", ".join([*parts, f"region {session().get_config_variable('region') or 'none'}"])


def source() -> str:
    """The variable or the profile that names this process's credentials, for error messages."""
    if os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return "AWS_WEB_IDENTITY_TOKEN_FILE"
    return f"profile {session().profile or 'default'} of {session().get_config_variable('config_file')}"


def client(service: str, region: str | None = None, *, read_s: float = 60.0) -> Any:
    """A client of one service. ``region`` None: the SDK's chain decides. ``read_s``: a call fails after so many seconds without an answer.

    Credentials come from the SDK's chain, endpoints of emulators from AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE>. Raises `InputError`
    where an endpoint is malformed, and the SDK's errors.
    """
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=read_s,
        max_pool_connections=POOL,
        retries={"mode": "standard", "total_max_attempts": 1},  # fsd_core repeats calls, so the SDK must not
    )
    try:
        with _creating:
            return session().create_client(service, region_name=region, config=config)
    except json.JSONDecodeError:  # raised for the output of a credential program
        raise
    except ValueError as error:  # botocore does not name the variable or profile of an endpoint
        raise InputError(f"AWS endpoint of {service}: {shown(str(error))}: expected http://HOST:PORT: check {source()}") from error


def connect(made: Any) -> bool:
    """Open one connection of a client, and leave it for its next call. `False` where this version of botocore does not allow it.

    botocore has no call for this. So it gets the address of the service, without credentials: any answer is enough, and AWS bills no
    account for it.
    """
    try:
        send = made._endpoint.http_session.send
    except AttributeError:
        return False
    send(AWSRequest("GET", made.meta.endpoint_url).prepare())
    return True
