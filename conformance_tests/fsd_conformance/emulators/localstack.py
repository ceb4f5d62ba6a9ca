"""AWS with LocalStack's community core, in the last release that needs no account: stricter than moto, but slower, 560 MB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fsd_conformance.emulators.aws import Aws
from fsd_conformance.emulators.install import environment
from fsd_conformance.emulators.process import Server

__all__ = ["LocalStack", "LocalStackServer", "install"]

# It does not work with later releases of these packages.
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
    """The interpreter of an environment with LocalStack. Installs it if needed, which takes some minutes and 520 MB below FSD_HOME."""
    return environment("localstack-4.9.2", REQUIREMENTS, tell)


class LocalStackServer(Server):
    """``localstack.runtime.main`` with the services that runs need."""

    name = "localstack"
    health = "/_localstack/health"
    grace_s = 0.0

    def command(self) -> Sequence[str]:
        """The command line, in the interpreter of LocalStack's environment."""
        return [str(install(lambda text: None)), "-m", "localstack.runtime.main"]

    def environment(self) -> Mapping[str, str]:
        """The environment in which LocalStack writes only below its folder, downloads nothing, and sends no usage data."""
        inherited = {name: value for name, value in super().environment().items() if not name.startswith("PYTHON")}
        return inherited | {
            "SERVICES": "sns,sqs,s3,iam,sts,logs",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            "LOCALSTACK_HOST": f"127.0.0.1:{self.port}",  # so that queue URLs need no DNS
            "SQS_ENDPOINT_STRATEGY": "path",
            "FILESYSTEM_ROOT": str(self.folder / "localstack"),
            "TMPDIR": str(self.folder),
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DNS_ADDRESS": "0",
            "LS_LOG": "warn",  # the default logs every request
        }


class LocalStack(Aws):
    """LocalStack and the local Lambda."""

    name = "localstack"
    service = LocalStackServer

    @staticmethod
    def install(tell: Callable[[str], None]) -> None:
        """Install the packages of `Aws`, and LocalStack."""
        Aws.install(tell)
        install(tell)
