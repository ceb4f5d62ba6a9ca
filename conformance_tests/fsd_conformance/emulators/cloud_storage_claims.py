"""The operations of the local Cloud Storage: the supported and the refused parameters, headers and fields of each.

A parameter, header or field that would change the service's answer is either supported here or answered with 501; it is never ignored. The
list of refused ones is documentation, and a test compares it; anything in neither list is refused too. These are only stored and returned:
lifecycle rules (which never delete anything here), default keys (nothing is encrypted), storage classes, locations, iamConfiguration and
policies (without credentials, everything is allowed), customTime, and "projection" (access control lists are never returned). Deleted
objects are gone, so a softDeletePolicy must be 0 or missing. "versions" in a list finds only live objects: a bucket with versions cannot
be made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["OPERATIONS", "Operation", "controls", "is_set", "words"]


def words(text: str) -> frozenset[str]:
    """The names in a text."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its method, its path as a regular expression, and the supported ``parameters`` and ``headers``."""

    method: str
    path: str
    name: str
    parameters: frozenset[str] = frozenset()
    headers: frozenset[str] = frozenset()


PARAMETERS_ANYWHERE = words("alt fields key prettyPrint quotaUser")
_CONDITIONS = words("ifGenerationMatch ifGenerationNotMatch ifMetagenerationMatch ifMetagenerationNotMatch")
_METAGENERATION = words("ifMetagenerationMatch ifMetagenerationNotMatch projection")
_OBJECT = words("generation projection").union(_CONDITIONS)
_PAGES = words("maxResults pageToken prefix projection")
_ETAGS, _SUMS = words("if-match if-none-match"), words("content-md5 x-goog-hash")
_B, _O = "/storage/v1/b/([^/]+)", "/o/([^/]+)"
OPERATIONS = (
    Operation("POST", "/storage/v1/b/?", "create_bucket", words("project projection")),
    Operation("GET", "/storage/v1/b", "list_buckets", _PAGES | {"project"}),
    Operation("GET", _B, "get_bucket", _METAGENERATION, _ETAGS),
    Operation("PATCH", _B, "update_bucket", _METAGENERATION),
    Operation("PUT", _B, "update_bucket", _METAGENERATION),
    Operation("DELETE", _B, "delete_bucket", _METAGENERATION),
    Operation("GET", f"{_B}/iam", "get_policy", words("optionsRequestedPolicyVersion")),
    Operation("PUT", f"{_B}/iam", "set_policy"),
    Operation("GET", f"{_B}/iam/testPermissions", "test_permissions", words("permissions")),
    Operation("GET", f"{_B}/o", "list", _PAGES | words("delimiter endOffset startOffset versions")),
    Operation("GET", f"(?:/download)?{_B}{_O}", "get", _OBJECT, _ETAGS | {"range"}),
    Operation("PATCH", f"{_B}{_O}", "update", _OBJECT),
    Operation("PUT", f"{_B}{_O}", "update", _OBJECT),
    Operation("DELETE", f"{_B}{_O}", "delete", _OBJECT),
    Operation(
        *("POST", f"/upload{_B}/o", "upload", words("name projection uploadType").union(_CONDITIONS)),
        _SUMS | words("x-upload-content-length x-upload-content-type"),
    ),
    Operation("PUT", f"/upload{_B}/o", "resume", words("uploadType upload_id"), _SUMS | {"content-range"}),
    Operation("DELETE", f"/upload{_B}/o", "cancel", words("uploadType upload_id")),
    Operation("POST", "/batch/storage/v1", "batch"),
)
PATHS_REFUSED = (
    ("GET", "/storage/v1/b/BUCKET/acl"),
    ("GET", "/storage/v1/b/BUCKET/defaultObjectAcl"),
    ("GET", "/storage/v1/b/BUCKET/o/OBJECT/acl"),
    ("POST", "/storage/v1/b/BUCKET/lockRetentionPolicy"),
    ("POST", "/storage/v1/b/BUCKET/restore"),
    ("POST", "/storage/v1/b/BUCKET/relocate"),
    ("POST", "/storage/v1/b/BUCKET/o/watch"),
    ("POST", "/storage/v1/b/BUCKET/o/bulkRestore"),
    ("POST", "/storage/v1/b/BUCKET/o/OBJECT/compose"),
    ("POST", "/storage/v1/b/BUCKET/o/OBJECT/restore"),
    ("POST", "/storage/v1/b/BUCKET/o/OBJECT/copyTo/b/BUCKET/o/x"),
    ("POST", "/storage/v1/b/BUCKET/o/OBJECT/rewriteTo/b/BUCKET/o/x"),
    ("POST", "/storage/v1/b/BUCKET/o/OBJECT/moveTo/o/x"),
    ("GET", "/storage/v1/b/BUCKET/folders"),
    ("GET", "/storage/v1/b/BUCKET/managedFolders"),
    ("GET", "/storage/v1/b/BUCKET/anywhereCaches"),
    ("GET", "/storage/v1/b/BUCKET/notificationConfigs"),
    ("GET", "/storage/v1/b/BUCKET/o/OBJECT/iam"),
    ("GET", "/storage/v1/projects/p/hmacKeys"),
    ("GET", "/storage/v1/projects/p/serviceAccount"),
    ("HEAD", "/storage/v1/b/BUCKET"),
    ("GET", "/BUCKET/OBJECT"),  # the XML API
)
FLAGS_REFUSED = words(  # except with the value false
    "enableObjectRetention includeFoldersAsPrefixes includeTrailingDelimiter overrideUnlockedRetention returnPartialSuccess softDeleted"
)
PARAMETERS_REFUSED = FLAGS_REFUSED | words(
    "contentEncoding copySourceAcl destinationKmsKeyName destinationPredefinedAcl filter ifSourceGenerationMatch "
    "ifSourceGenerationNotMatch ifSourceMetagenerationMatch ifSourceMetagenerationNotMatch kmsKeyName matchGlob predefinedAcl "
    "predefinedDefaultObjectAcl restoreToken rewriteToken sourceGeneration userProject"
)
# Headers that begin like this, and these, change the service's answer; all others concern HTTP or the client only.
# (Google's client sends X-Upload-Content-Type with every request; it matters for a resumable upload only.)
_CONTROLLING = ("x-goog-", "if-", "x-http-method")
_CONTROLS = words("content-encoding content-md5 content-range range")
_NO_EFFECT = words("x-goog-api-client x-goog-gcs-idempotency-token x-goog-request-params x-goog-request-reason")
HEADERS_REFUSED = words(
    "content-encoding if-modified-since if-range if-unmodified-since x-goog-acl x-goog-content-length-range "
    "x-goog-copy-source-encryption-key x-goog-encryption-algorithm x-goog-encryption-key x-goog-encryption-key-sha256 "
    "x-goog-encryption-kms-key-name x-goog-if-generation-match x-goog-meta-a x-goog-storage-class x-goog-user-project "
    "x-http-method-override"
)
BUCKET_FIELDS = words("encryption iamConfiguration labels lifecycle location name softDeletePolicy storageClass")
BUCKET_READ_ONLY = words(  # read-only: the service ignores them in a request
    "etag generation hardDeleteTime id kind locationType metageneration owner projectNumber satisfiesPZI satisfiesPZS selfLink "
    "softDeleteTime timeCreated updated"
)
BUCKET_REFUSED = words(
    "acl autoclass billing cors customPlacementConfig defaultEventBasedHold defaultObjectAcl hierarchicalNamespace ipFilter "
    "logging objectRetention retentionPolicy rpo versioning website"
)
OBJECT_FIELDS = words("cacheControl contentDisposition contentEncoding contentLanguage contentType customTime metadata name storageClass")
OBJECT_READ_ONLY = words(
    "bucket componentCount crc32c customerEncryption etag generation hardDeleteTime id kind md5Hash mediaLink metageneration owner "
    "restoreToken retentionExpirationTime selfLink size softDeleteTime timeCreated timeDeleted timeFinalized timeStorageClassUpdated "
    "updated"
)
OBJECT_REFUSED = words("acl contexts eventBasedHold kmsKeyName retention temporaryHold")


def controls(header: str) -> bool:
    """Whether a header, in lower case, would change the service's answer."""
    return (header.startswith(_CONTROLLING) or header in _CONTROLS) and header not in _NO_EFFECT


def is_set(value: object) -> bool:
    """Whether a field has another value than its default."""
    if isinstance(value, Mapping):
        return any(map(is_set, value.values()))
    if isinstance(value, list):
        return bool(value)
    return value not in (None, False, "", "DEFAULT")


def refused(resource: str, fields: Mapping[str, Any], known: frozenset[str]) -> str | None:
    """The error text for a field of ``fields`` that is not implemented; None where all are."""
    name = next((name for name, value in fields.items() if name not in known and is_set(value)), None)
    return None if name is None else f"{resource}.{name} is not implemented by the local Cloud Storage"
