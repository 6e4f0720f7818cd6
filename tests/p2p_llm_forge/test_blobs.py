"""Blob ids agree with RFC 6962; canonical JSON and atomic files are strict."""

import hashlib
import json
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge import blobs
from p2p_llm_forge.errors import BlobError, DiskError

# Roots of the first n leaves of the well-known Certificate Transparency test tree.
LEAVES = [bytes.fromhex(leaf) for leaf in ("", "00", "10", "2021", "3031", "40414243")]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
]


def recursive_root(hashes: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else hashlib.sha256().digest()
    split = 1 << (len(hashes) - 1).bit_length() - 1
    left, right = recursive_root(hashes[:split]), recursive_root(hashes[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_the_certificate_transparency_tree_has_its_known_roots() -> None:
    for count, root in enumerate(ROOTS):
        assert blobs.merkle_root(map(blobs.leaf_hash, LEAVES[:count])).hex() == root


@given(st.lists(st.binary(max_size=3), max_size=70))
def test_roots_follow_the_recursive_definition(leaves: list[bytes]) -> None:
    hashes = [blobs.leaf_hash(leaf) for leaf in leaves]
    assert blobs.merkle_root(hashes) == recursive_root(hashes)


def test_a_blob_id_is_the_root_over_mebibyte_chunks_and_the_length() -> None:
    data = bytes(range(256)) * 9000
    leaves = [hashlib.sha256(b"\x00" + data[at : at + (1 << 20)]).digest() for at in range(0, len(data), 1 << 20)]
    assert blobs.blob_id(data) == f"{recursive_root(leaves).hex()}-{len(data)}"
    assert blobs.blob_id(b"") == f"{hashlib.sha256().hexdigest()}-0"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(JSON.filter(lambda value: "\\ud" not in json.dumps(value)))
def test_canonical_json_round_trips(value: object) -> None:
    assert blobs.decode_json(blobs.encode_json(value), "x") == value


@pytest.mark.parametrize(
    "text", ['{"b":1,"a":2}', '{"a":1,"a":1}', '{"a": 1}', "[1.0e0]", "NaN", "", "\xff", "[" * 9999]
)
def test_other_spellings_of_json_are_refused(text: str) -> None:
    with pytest.raises(BlobError, match="thing: not canonical JSON"):
        blobs.decode_json(text.encode("latin-1"), "thing")


def test_a_blob_above_its_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"12345")
    with pytest.raises(BlobError, match="5 bytes, expected at most 4"):
        blobs.read_blob(tmp_path / "b", 4, "thing")
    assert blobs.read_blob(tmp_path / "b", 5, "thing") == b"12345"
    with pytest.raises(DiskError, match="No such file"):
        blobs.read_blob(tmp_path / "c", 5, "thing")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    blobs.write_atomic(path, [b"old"])
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        with pytest.raises(DiskError, match="free space"):
            blobs.write_atomic(path, [b"new" * 100])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
