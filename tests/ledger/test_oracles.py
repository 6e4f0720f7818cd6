"""Other people's code as oracles: `rfc8785` for the encoding, `pymerkle` for trees. Equal on random inputs."""

import json

import pymerkle
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ledger import codec, entries, merkle
from ledger.errors import CodecInvalid, LedgerError

from .world import ALICE, BOB, blob, run_log

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(0, codec.MAX_INT) | st.sampled_from([0, 1, 2**31, 2**53 - 1])
VALUES = st.recursive(
    NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(st.characters(max_codepoint=127)), inner),
    max_leaves=30,
)
LOOSE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
DATA = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


@given(VALUES)
def test_encoding_is_that_of_rfc8785(value):
    assert codec.encode(value) == rfc8785.dumps(value)


@given(LOOSE)
def test_where_we_encode_at_all_rfc8785_gives_the_same(value):
    try:
        ours = codec.encode(value)
    except CodecInvalid:
        return
    assert ours == rfc8785.dumps(value)


@given(LOOSE, st.booleans())
def test_what_we_decode_is_what_rfc8785_would_write(value, spaced):
    text = json.dumps(value, ensure_ascii=spaced, separators=(", ", ": ") if spaced else None).encode(errors="replace")
    try:
        found = codec.decode(text)
    except CodecInvalid:
        return
    assert rfc8785.dumps(found) == text


@given(st.integers(1, 2**53 - 1), st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_entries_are_encoded_as_rfc8785_encodes_them(amount, memo):
    for entry in (entries.Send(to=BOB.public, amount=amount, memo=memo), *run_log(1, close=True)):
        assert entry.encode() == rfc8785.dumps(json.loads(entry.encode()))
        assert entries.parse(rfc8785.dumps(json.loads(entry.encode()))) == entry


def tree_of(data: list[bytes]) -> pymerkle.InmemoryTree:
    """The other tree."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for item in data:
        tree.append_entry(item)
    return tree


@given(DATA, st.data())
def test_roots_at_every_size_are_those_of_pymerkle(data, drawn):
    leaves = [merkle.leaf_hash(item) for item in data]
    size = drawn.draw(st.integers(1, len(data)))
    assert merkle.Tree(leaves).root(size) == tree_of(data).get_root(size)
    assert merkle.root(leaves) == tree_of(data).get_root()


@given(DATA, st.data())
def test_inclusion_paths_are_those_of_pymerkle(data, drawn):
    leaves = [merkle.leaf_hash(item) for item in data]
    size = drawn.draw(st.integers(1, len(data)))
    index = drawn.draw(st.integers(0, size - 1))
    other = tree_of(data).prove_inclusion(index + 1, size)
    leaf, *path = other.path
    assert (leaf, path) == (leaves[index], merkle.Tree(leaves).inclusion_proof(index, size))
    root = merkle.root(leaves[:size])
    pymerkle.verify_inclusion(leaves[index], root, other)
    merkle.verify_inclusion(leaf, index, size, path, root)


@given(DATA, st.data())
def test_consistency_holds_for_both_on_the_same_roots(data, drawn):
    leaves = [merkle.leaf_hash(item) for item in data]
    size = drawn.draw(st.integers(1, len(data)))
    old = drawn.draw(st.integers(1, size))
    tree = merkle.Tree(leaves)
    ours = tree.consistency_proof(old, size)
    other = tree_of(data).prove_consistency(old, size)
    pymerkle.verify_consistency(tree.root(old), tree.root(size), other)
    merkle.verify_consistency(old, size, tree.root(old), tree.root(size), ours)


def test_a_blob_is_no_entry():
    for data in (ALICE.public.encode(), blob("x").encode()):
        try:
            entries.parse(data)
        except LedgerError:
            continue
        raise AssertionError(data)
