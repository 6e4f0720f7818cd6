"""RFC 6962 trees: public vectors, constants, and properties against a recursive oracle."""

import base64
import json
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import merkle
from ledger.errors import ProofInvalid

VECTORS = Path(__file__).parents[1] / "vectors" / "rfc6962.json"

# The well-known tree of the Certificate Transparency implementations: eight leaves and the roots of all sizes.
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def hashes(count: int) -> list[bytes]:
    return [merkle.leaf_hash(number.to_bytes(4, "big")) for number in range(count)]


def oracle(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return merkle.node_hash(oracle(leaves[:k]), oracle(leaves[k:]))


def test_roots_of_the_reference_tree():
    leaves = [merkle.leaf_hash(leaf) for leaf in LEAVES]
    assert [merkle.root(leaves[:size]).hex() for size in range(9)] == ROOTS
    tree = merkle.Tree(leaves)
    assert [tree.root(size).hex() for size in range(9)] == ROOTS


def test_all_public_vectors():
    cases = json.loads(VECTORS.read_text())["cases"]
    assert len(cases) == 196
    for name, wanted, kind, first, second, *hashed, path in cases:
        one, other = map(base64.b64decode, hashed)
        proof = [base64.b64decode(item) for item in path]
        try:
            if kind == "inclusion":
                merkle.verify_inclusion(one, first, second, proof, other)
            else:
                merkle.verify_consistency(first, second, one, other, proof)
            refused = False
        except ProofInvalid:
            refused = True
        assert refused == wanted, name


@given(st.integers(0, 80), st.data())
def test_trees_frontiers_and_the_oracle_agree(count, data):
    leaves = hashes(count)
    size = data.draw(st.integers(0, count))
    tree = merkle.Tree(leaves)
    assert tree.root(size) == oracle(leaves[:size]) == merkle.root(leaves[:size]) == tree.frontier(size).root
    frontier = tree.frontier(size)
    for leaf in leaves[size:]:
        frontier.append(leaf)
    assert frontier.root == tree.root()
    tree.truncate(size)
    for leaf in leaves[size:]:
        tree.append(leaf)
    assert tree.root() == oracle(leaves)


@given(st.integers(1, 80), st.data())
def test_proofs_prove_and_a_changed_one_does_not(count, data):
    leaves = hashes(count)
    index, old = data.draw(st.integers(0, count - 1)), data.draw(st.integers(1, count))
    root, old_root = merkle.root(leaves), merkle.root(leaves[:old])
    inclusion, consistency = merkle.inclusion_proof(leaves, index), merkle.consistency_proof(leaves, old)
    merkle.verify_inclusion(leaves[index], index, count, inclusion, root)
    merkle.verify_consistency(old, count, old_root, root, consistency)
    for proof in (inclusion, consistency):
        change = data.draw(st.sampled_from(["flip", "drop", "add"]))
        bad = list(proof)
        if change == "flip" and bad:
            at = data.draw(st.integers(0, len(bad) - 1))
            bad[at] = bytes([bad[at][0] ^ 1]) + bad[at][1:]
        elif change == "drop" and bad:
            bad.pop(data.draw(st.integers(0, len(bad) - 1)))
        else:
            bad.insert(data.draw(st.integers(0, len(bad))), merkle.leaf_hash(b"x"))
        with pytest.raises(ProofInvalid):
            if proof is inclusion:
                merkle.verify_inclusion(leaves[index], index, count, bad, root)
            else:
                merkle.verify_consistency(old, count, old_root, root, bad)


def test_raw_data_is_not_taken_for_leaf_hashes():
    with pytest.raises(ValueError, match="leaf_hash"):
        merkle.root([b"data"])


@pytest.mark.parametrize("call", [
    lambda tree: tree.root(9), lambda tree: tree.inclusion_proof(3, 3), lambda tree: tree.inclusion_proof(0, 9),
    lambda tree: tree.consistency_proof(4, 3), lambda tree: tree.truncate(9), lambda tree: tree.frontier(-1),
])  # fmt: skip
def test_sizes_that_the_tree_never_had_are_refused(call):
    with pytest.raises(ValueError, match=r"tree|outside"):
        call(merkle.Tree(hashes(3)))
