"""The SDK's clients, as all of this adapter makes them: one attempt a call, pools for core's threads, nothing at import.

botocore, not boto3 around it: the clients are the same, and a cold start is 20 to 40 ms shorter (benchmarks/object_clients.py: S3
180 against 220 ms, with SNS and SQS 205 against 225 ms).
"""

from __future__ import annotations

import functools
import json
import os
import threading
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from fsd_core.errors import InputError
from fsd_core.providers.proxies import shown

__all__ = ["client", "credentials", "session", "source"]

CONNECT_S = 5.0
POOL = 32  # connections a client: core's 16 threads, a receiver, and room; they are opened when needed
_creating = threading.Lock()  # a session is not thread-safe, its clients are


@functools.lru_cache(maxsize=4)
def _session(environment: frozenset[tuple[str, str]]) -> Any:
    return botocore.session.get_session()


def session() -> Any:
    """The process's session: credentials and service models are looked up once, and again when the variables AWS_* change."""
    return _session(frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def credentials() -> str:
    """Which source of the SDK's chain has credentials, and for which region. Raises `NoCredentialsError` where none has.

    Asks nobody but, on a machine of AWS's, the machine's own metadata service (a second at most). A key id is no secret.
    """
    found = session().get_credentials()
    if found is None:
        raise NoCredentialsError
    profile = session().profile
    told = [f"by {found.method}" + (f", profile {profile}" if profile else "")]
    if type(found) is Credentials:  # others fetch the key from a service when it is first read
        told.append(f"key id {found.access_key}")
    return ", ".join([*told, f"region {session().get_config_variable('region') or 'none'}"])


def source() -> str:
    """What names the credentials of this process, for people."""
    if os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return "AWS_WEB_IDENTITY_TOKEN_FILE"
    return f"profile {session().profile or 'default'} of {session().get_config_variable('config_file')}"


def client(service: str, region: str | None = None, *, read_s: float = 60.0) -> Any:
    """A client of one service. ``region`` None: the SDK's own chain. ``read_s``: silence of the service after which a call fails.

    Credentials come from the SDK's own chain, endpoints of emulators from AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE>.
    """
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=read_s,
        max_pool_connections=POOL,
        retries={"mode": "standard", "total_max_attempts": 1},  # the only retry layer is core's
    )
    try:
        with _creating:
            return session().create_client(service, region_name=region, config=config)
    except json.JSONDecodeError:  # of a program that gives credentials
        raise
    except ValueError as error:  # which endpoints come from a profile is for botocore to know
        raise InputError(f"AWS endpoint of {service}: {shown(str(error))}: expected http://HOST:PORT: look at {source()}") from error
