"""Sealed JSON: every JSON reader can read it, and all damage is found."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.common.sealed import Damaged, seal, unseal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.text().filter(lambda name: name != "checksum"), VALUES, max_size=5)
CLAIM = {"nonce": "0f", "attempt": 0, "pid": 4711, "at": 1.5, "who": "Zoë"}


@given(FIELDS)
def test_fields_come_back(fields: dict[str, object]) -> None:
    assert unseal(seal(fields), "x") == fields


@given(FIELDS)
def test_any_json_reader_reads_it_with_the_checksum_first(fields: dict[str, object]) -> None:
    data = seal(fields)
    read = json.loads(data)
    assert next(iter(read)) == "checksum"
    assert int(read.pop("checksum"), 16) == zlib.crc32(data[23:])
    assert read == fields


def test_every_flip_truncation_and_extension_is_found_and_named() -> None:
    data = seal(CLAIM)
    damaged = [data[:at] for at in range(len(data))]
    damaged += [data + more for more in (b"\0", b" ", b"\n", b"}", data)]
    for at in range(len(data)):
        for bit in range(8):
            damaged.append(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    for bad in damaged:
        with pytest.raises(Damaged, match=r"^the claim of rank 3 is damaged: "):
            unseal(bad, "the claim of rank 3")


@pytest.mark.parametrize("rest", [b", 5}", b", nothing", b'} {"a": 1}', b', "a": "\xff"}', b', "a": ' + b"[" * 100_000])
def test_bytes_that_are_no_json_object_are_damaged_though_their_checksum_is_right(rest: bytes) -> None:
    with pytest.raises(Damaged, match="not JSON"):
        unseal(b'{"checksum": "%08x"' % zlib.crc32(rest) + rest, "the lease")


def test_plain_json_is_not_sealed() -> None:
    with pytest.raises(Damaged, match="begins with"):
        unseal(json.dumps(CLAIM).encode(), "the claim")


@pytest.mark.parametrize(("fields", "error"), [({"checksum": 1}, ValueError), ({"a": float("nan")}, ValueError), ({"a": b""}, TypeError)])
def test_values_without_a_json_form_are_refused(fields: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        seal(fields)
