"""AWS by LocalStack's community core, the last release that wants no account: stricter than moto, slower, 560 MB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fsd_conformance.emulators.aws import Aws
from fsd_conformance.emulators.install import environment
from fsd_conformance.emulators.process import Server

__all__ = ["LocalStack", "LocalStackServer", "install"]

# Later releases of what it depends on do not work with it.
REQUIREMENTS = (
    "localstack-core[runtime]==4.9.2",
    "cbor2==5.7.0",
    "pyOpenSSL==25.1.0",
    "cryptography<46",
    "service_identity<25",
    "psutil<7.2",
    "plux==1.12.1",
)


def install(tell: Callable[[str], None]) -> Path:
    """The interpreter of an environment that has it, made if need be: minutes, and 520 MB below FSD_HOME."""
    return environment("localstack-4.9.2", REQUIREMENTS, tell)


class LocalStackServer(Server):
    """``localstack.runtime.main`` with what we need of it."""

    name = "localstack"
    health = "/_localstack/health"
    grace_s = 0.0

    def command(self) -> Sequence[str]:
        """In an interpreter of its own."""
        return [str(install(lambda text: None)), "-m", "localstack.runtime.main"]

    def environment(self) -> Mapping[str, str]:
        """All that it writes is below the folder; it downloads nothing and tells nobody."""
        inherited = {name: value for name, value in super().environment().items() if not name.startswith("PYTHON")}
        return inherited | {
            "SERVICES": "sns,sqs,s3,iam,sts,logs",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            "LOCALSTACK_HOST": f"127.0.0.1:{self.port}",  # so that the addresses of queues need no DNS
            "SQS_ENDPOINT_STRATEGY": "path",
            "FILESYSTEM_ROOT": str(self.folder / "localstack"),
            "TMPDIR": str(self.folder),
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DNS_ADDRESS": "0",
            "LS_LOG": "warn",  # a line for each request otherwise
        }


class LocalStack(Aws):
    """LocalStack and the local Lambda."""

    name = "localstack"
    service = LocalStackServer

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """What `Aws` needs, and LocalStack."""
        Aws.install(tell)
        install(tell)
