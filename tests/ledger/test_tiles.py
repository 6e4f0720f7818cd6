"""Where tiles and bundles lie, by the examples of https://c2sp.org/tlog-tiles, and how bundles are framed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import CodecInvalid
from ledger.tiles import ENTRIES, Tile, bundles, parse_bundle, tiles, write_bundle


def test_a_tree_of_70000_has_the_tiles_of_the_specification():
    found = list(tiles(70_000))
    assert Counter((tile.kind, tile.width == 256) for tile in found) == {
        ("0", True): 273, ("0", False): 1, ("1", True): 1, ("1", False): 1, ("2", False): 1,
    }  # fmt: skip
    assert [tile.path for tile in found if tile.width < 256] == [
        "tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1",
    ]  # fmt: skip


def test_a_tree_of_256_has_a_full_tile_and_one_hash_above():
    assert [tile.path for tile in tiles(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert [tile.path for tile in bundles(256)] == ["tile/entries/000"]
    assert list(tiles(0)) == list(bundles(0)) == []


@pytest.mark.parametrize(("number", "path"), [
    (0, "000"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067"), (10**9, "x001/x000/x000/000"),
])  # fmt: skip
def test_numbers_are_written_in_groups_of_three_digits(number, path):
    assert Tile("0", number, 256).path == f"tile/0/{path}"
    assert Tile(ENTRIES, number, 7).path == f"tile/entries/{path}.p/7"


@given(st.integers(0, 200_000))
def test_partial_widths_are_those_of_the_formula(size):
    for tile in tiles(size):
        count = size // 256 ** int(tile.kind)
        assert tile.width == (256 if tile.number < count // 256 else count % 256)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_is_read_as_it_was_written(entries):
    assert parse_bundle(write_bundle(entries)) == entries


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x01", b"\x00\x02a", b"\x00\x00\xff"])
def test_a_bundle_that_ends_within_an_entry_is_refused(data):
    with pytest.raises(CodecInvalid, match="ends within entry"):
        parse_bundle(data)
