"""The repository of an app with a key of the user. Google builds the function into a container image, and Artifact Registry encrypts the
image with the key of its repository. An app without such a key needs none: Google makes one repository for all functions of a region.
"""

from __future__ import annotations

from fsd_core.errors import InputError
from fsd_core.providers.environment import foreign
from fsd_gcp import names as naming
from fsd_gcp import policy
from fsd_gcp.api import Api

__all__ = ["make", "remove"]


def make(api: Api, app: str, key: str) -> None:
    """Make the app's repository with ``key``. Raises `InputError` where a repository of this name is not the app's, or has another key."""
    name = naming.repository(app, api.project, api.region)
    place, _, short = name.rpartition("/repositories/")
    wanted = {"format": "DOCKER", "kmsKeyName": key, "labels": {policy.APP_LABEL: app}}
    begun = api.make("artifactregistry", "POST", f"v1/{place}/repositories", wanted, repositoryId=short)
    if begun is not None:
        api.finished(f"making repository {short}", begun, "artifactregistry", "v1")
        return
    found = api.call("artifactregistry", "GET", f"v1/{name}")
    if found.get("labels", {}).get(policy.APP_LABEL) != app:
        raise foreign(app, f"a repository {short}")
    if (has := found.get("kmsKeyName") or "keys of Google") != key:
        raise InputError(f"repository {short}: is encrypted with {has}: expected {key}: destroy the app, and deploy it again")


def remove(api: Api, app: str) -> list[str]:
    """Remove the app's repository with its images. Returns one line of text that names it; an empty list where the app has none."""
    name = naming.repository(app, api.project, api.region)
    found = api.find("artifactregistry", f"v1/{name}")
    if found is None or found.get("labels", {}).get(policy.APP_LABEL) != app:
        return []
    begun = api.delete("artifactregistry", f"v1/{name}")
    if begun is None:
        return []
    short = name.rpartition("/")[2]
    api.finished(f"removing repository {short}", begun, "artifactregistry", "v1")
    return [f"repository {short}"]
