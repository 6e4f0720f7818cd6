"""Replication planned, and logs as tiles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import merkle, tiles
from ledger.replica import BUNDLE, Range, plan

SIZES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2000))


@given(SIZES, SIZES)
def test_the_plan_covers_exactly_what_is_missing_in_order(local, remote):
    missing = [(origin, at) for origin in sorted(remote) for at in range(local.get(origin, 0), remote[origin])]
    assert [(part.origin, at) for part in plan(local, remote) for at in range(part.start, part.end)] == missing
    assert all(0 < part.end - part.start <= BUNDLE for part in plan(local, remote))
    assert all(part.start // BUNDLE == (part.end - 1) // BUNDLE for part in plan(local, remote))


def test_nothing_to_fetch():
    assert plan({"a": 5}, {"a": 5}) == []
    assert plan({}, {"a": 300}) == [Range("a", 0, 256), Range("a", 256, 300)]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700, 66_000])
def test_tiles_hold_every_entry_and_every_hash_under_the_names_of_the_standard(size):
    entries = [number.to_bytes(4, "big") for number in range(size)]
    tree = merkle.Tree(map(merkle.leaf_hash, entries))
    files = dict(tiles.files(tree, size, entries, b"note"))
    assert list(files)[-1] == "checkpoint"
    bundles = [name for name in files if name.startswith("tile/entries/")]
    assert [entry for name in bundles for entry in tiles.parse_bundle(files[name])] == entries
    leaves = b"".join(data for name, data in files.items() if name.startswith("tile/0/"))
    assert leaves == b"".join(map(merkle.leaf_hash, entries))
    if size == 66_000:
        assert "tile/0/256" in files
        assert "tile/0/257.p/208" in files
        assert "tile/2/000.p/1" in files
        assert files["tile/1/000"][:32] == tree.root(256)


def test_tile_numbers_above_999_are_grouped():
    assert tiles._path("0", 1_234_067, 256) == "tile/0/x001/x234/067"


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x02a", b"\x00\x01ab"])
def test_a_bundle_that_ends_early_is_refused(data):
    with pytest.raises(ValueError, match="ends within"):
        tiles.parse_bundle(data)
