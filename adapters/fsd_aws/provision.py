"""Makes and removes an app: queues, topics, bucket, function, role. The settings are those of `fsd_aws.settings`.

`fsd_core.providers.provisioning` has the course of ``ensure``. The function comes first, since that decides the generation
(`fsd_aws.function`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs
from botocore import exceptions as sdk

from fsd_aws import audit, bucket, errors, function, keys, package, policy, queues
from fsd_aws import names as naming
from fsd_aws.api import Api
from fsd_aws.clients import session
from fsd_aws.names import Names
from fsd_aws.package import DIRECT_BYTES
from fsd_aws.settings import Settings
from fsd_core.driver import Resources
from fsd_core.errors import InputError
from fsd_core.providers.advice import line
from fsd_core.providers.names import new_generation
from fsd_core.providers.package import Package
from fsd_core.providers.probes import Pair
from fsd_core.providers.promises import Promise
from fsd_core.providers.provisioning import AppProvisioner
from fsd_core.providers.settings import RETENTION

__all__ = ["AwsProvisioner"]


class AwsProvisioner(AppProvisioner[Api, Settings]):
    """Implements `fsd_core.driver.Provisioner`."""

    kind = Settings
    recorded = ("message_kb", RETENTION)
    chosen = ("bucket", "kms_key", "role")
    exclusive = ("bucket",)
    fixed: ClassVar = {"bucket": "[aws] bucket"}
    queued = ("message_kb", "kms_key")  # with another message_kb, ranks have other topics
    tried = (*AppProvisioner.tried, "role", "kms_key")
    recipe = staticmethod(package.recipe)

    def remove(self, api: Api, app: str, had: Resources | None) -> list[str]:
        """Remove function, topics and queues, bucket, role and log group. Returns one line of text for each removed resource."""
        name = self._bucket(api, app, had)
        removed = function.remove(api, naming.function(app))
        removed += queues.remove(api, app)
        removed += [f"bucket {name}"] if bucket.remove(api, app, name) else []
        return removed + function.remove_around(api, app, naming.function(app), naming.role(app, api.region))

    def stored(self, api: Api, app: str, had: Resources | None) -> dict[str, str] | None:
        """The app's bucket."""
        name = self._bucket(api, app, had)
        return {"region": api.region, "bucket": name} if bucket.owned(api, app, name) else None

    def _bucket(self, api: Api, app: str, had: Resources | None) -> str:
        if had:
            return had.names["bucket"]
        return self.settings.bucket or naming.bucket(app, api.call("sts", "get_caller_identity")["Account"], api.region)

    def promises(self, api: Api, had: Resources) -> list[Promise]:
        """The promises about the deployed app: see `fsd_aws.audit`."""
        return audit.promises(api, had)

    def remove_queues(self, api: Api, app: str, keep: str | None) -> list[str]:
        """Remove the queues of all generations except ``keep``: see `fsd_aws.queues.remove`."""
        return queues.remove(api, app, keep)

    def read(self, api: Api, app: str) -> Resources | None:
        """The app's resources, which its function records: see `fsd_aws.function.read`."""
        return function.read(api, app, naming.function(app))

    def requests(self) -> Api:
        """An `Api` for the region of the settings, or of the SDK if they name none. Raises `InputError` where neither names a region."""
        self.provider.stand_in()  # checks the variables: botocore says only "invalid endpoint"
        try:
            region = self.settings.region or os.environ.get("AWS_REGION") or session().get_config_variable("region")
            if not region:
                raise InputError("no AWS region is set: expected [aws] region in fsd.toml, AWS_REGION, or 'aws configure set region NAME'")
            session().get_partition_for_region(region)
        except (sdk.UnknownRegionError, sdk.ProfileNotFound, sdk.ConfigParseError) as error:
            raise InputError(line(f"AWS settings: {error}", errors.advice(error))) from error
        return Api(region)

    def wanted(self) -> dict[str, str]:
        """The entries of `Resources.names` that follow from the settings."""
        text = self.settings.text
        return super().wanted() | ({} if text == "auto" else {"body": "text" if text else "binary"})

    def begin(
        self, api: Api, had: Resources, wanted: dict[str, str], code: Package, ranks: int, slots: int
    ) -> tuple[Resources, dict[str, str]]:
        """Make role, log group, function (which decides the generation) and bucket."""
        app, name, role = had.app, naming.function(had.app), naming.role(had.app, api.region)
        if not had.names:
            account = api.call("sts", "get_caller_identity")["Account"]
            new = {
                "region": api.region,
                "account": account,
                "partition": session().get_partition_for_region(api.region),
                "generation": new_generation(),
                "queue_url_prefix": "",
                "function": name,
                "bucket": naming.bucket(app, account, api.region),
                "body": "",
            } | wanted
            keys.check(api, Names.of(Resources(app, 0, 0, new)), self.settings.role or role)
            new["role"] = self.settings.role or function.make_role(api, app, role)
            function.make_log_group(api, app, name, new.get("kms_key", ""))
            had = Resources(app, 0, 0, new)
            if len(code.body) > DIRECT_BYTES:
                bucket.make(api, Names.of(had), new["bucket"], int(new[RETENTION]))
            with function.sent(api, new["bucket"], code) as sent:
                created = function.create(api, had, sent)
            if not created:
                had = function.read(api, app, name) or had
            queues.remove(api, app, keep=had.names["generation"])  # queues that an interrupted destroy left
        names = dict(had.names) | wanted
        own = Names.of(Resources(app, 0, 0, names))
        keys.check(api, own, self.settings.role or role)
        function.make_log_group(api, app, name, own.kms_key)
        if not self.settings.role:
            names["role"] = function.make_role(api, app, role)
            function.set_policy(api, own, names["bucket"], name, role)
        bucket.make(api, own, names["bucket"], int(names[RETENTION]))
        return had, names

    def make_queues(self, api: Api, resources: Resources, pairs: Sequence[Pair]) -> dict[str, str]:
        """Make topics, queues and subscriptions, and find out whether they take binary attributes."""
        made = {"queue_url_prefix": queues.make(api, Names.of(resources), pairs)}
        found = attrs.evolve(resources, names={**resources.names, **made})
        body = found.names["body"] or ("binary" if queues.takes_binary(api, found, pairs[0]) else "text")
        return made | {"body": body}

    def deploy(self, api: Api, had: Resources, unproven: Resources, code: Package, changed: bool) -> dict[str, str]:
        """Send the function new code and settings where they changed, and set the limits of launches."""
        if changed:
            function.update(api, unproven, None if had.names.get("code") == code.digest else code)
        function.guard(api, unproven)
        return {}

    def logs(self, names: Mapping[str, str]) -> str:
        """The function's log group."""
        return f"log group {policy.log_group(names['function'])}"

    def record(self, api: Api, made: Resources, code: Package) -> None:
        """Write the function's environment."""
        function.update(api, made)
