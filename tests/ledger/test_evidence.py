"""Evidence: what proves that a key contradicted itself, and what does not."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import notes
from ledger.entries import Send, run_id
from ledger.errors import EvidenceInvalid, LedgerError
from ledger.evidence import MAX_BYTES, Evidence, build, build_split, verify, verify_split
from ledger.genesis import Genesis
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint

from .world import ALICE, ALICE_LOG, BOB, CAROL, GENESIS, NOW, RUN, RUN_LOG, key_of, run_log, spec_of

KEYS = {f"w{number}": key_of(f"w{number}") for number in range(4)}
FOUR = Genesis.create(name="four", witnesses=[(name, key.public) for name, key in KEYS.items()])
FOUR_LOG = FOUR.origin(ALICE.public)


def tree_of(log, size=None):
    return Tree([leaf_hash(str(item).encode()) for item in log[:size]])


def head_of(tree, origin=ALICE_LOG, key=ALICE):
    return notes.sign_head(Checkpoint(origin=origin, size=tree.size, root=tree.root()), key)


def evidence_of(one, two, origin=ALICE_LOG, begin=b""):
    """Evidence from two logs' heads."""
    trees = sorted((tree_of(one), tree_of(two)), key=lambda tree: tree.size)
    return build(trees[1], head_of(trees[0], origin), head_of(trees[1], origin), begin)


logs = st.lists(st.integers(0, 3), max_size=20)


@given(logs, logs, logs)
def test_heads_of_a_forked_log_always_prove_it_and_those_of_one_log_never(stem, one, two):
    one, two = [*stem, *one], [*stem, *two]
    if not one or not two:
        return
    shorter = min(len(one), len(two))
    if one[:shorter] == two[:shorter]:
        with pytest.raises(EvidenceInvalid, match="is a prefix"):
            evidence_of(one, two)
    else:
        found = evidence_of(one, two)
        assert found == evidence_of(two, one)
        assert verify(found, GENESIS.terms) == (ALICE_LOG, ALICE.public)
        assert Evidence.parse(found.encode()) == found
        assert len(found.encode()) <= 4096


def run_evidence(one=(1, 2), two=(1, 3, 4), **changes):
    begin = run_log(0)[0].encode()
    return replace(evidence_of(one, two, RUN_LOG, begin), **changes)


def test_a_runs_evidence_brings_the_entry_that_names_the_writers():
    assert verify(run_evidence(), GENESIS.terms) == (RUN_LOG, ALICE.public)
    other = type(run_log(0)[0])(spec=spec_of(leaders=[BOB.public, ALICE.public])).encode()
    for begin, why in ((b"", "not JSON"), (run_log(1)[2].encode(), "another run"), (other, "another run")):
        with pytest.raises(EvidenceInvalid, match=why):
            verify(run_evidence(begin=begin), GENESIS.terms)
    with pytest.raises(EvidenceInvalid, match="not UTF-8"):
        verify(run_evidence(begin=b"\xff"), GENESIS.terms)
    with pytest.raises(EvidenceInvalid, match="wanted none"):
        verify(replace(evidence_of([1], [2]), begin=b"{}"), GENESIS.terms)


def test_two_leaders_who_differ_prove_nothing_and_one_who_signed_both_is_found():
    spec = spec_of(leaders=[ALICE.public, BOB.public])
    begin = type(run_log(0)[0])(spec=spec)
    origin = GENESIS.run_origin(run_id(spec))
    small, large = tree_of([1, 2]), tree_of([1, 3, 4])
    by_alice, by_bob = head_of(small, origin, ALICE), head_of(large, origin, BOB)
    with pytest.raises(EvidenceInvalid, match="wanted one writer's on both"):
        build(large, by_alice, by_bob, begin.encode())
    by_both = notes.combine(head_of(small, origin, ALICE), [_line(head_of(small, origin, BOB))])
    found = build(large, by_both, by_bob, begin.encode())
    assert verify(found, GENESIS.terms) == (origin, BOB.public)


def _line(note):
    return note.splitlines(keepends=True)[-1]


def cosigned(head, names):
    return notes.combine(head, [notes.cosign(head, name, KEYS[name], NOW) for name in names])


def test_cosignatures_and_strange_lines_are_left_out_so_that_one_deed_has_one_evidence():
    one, two = tree_of([1]), tree_of([2])
    bare = build(two, head_of(one, FOUR_LOG), head_of(two, FOUR_LOG))
    dressed = build(two, cosigned(head_of(one, FOUR_LOG), KEYS), cosigned(head_of(two, FOUR_LOG), ["w1"]))
    assert dressed == bare
    with pytest.raises(EvidenceInvalid, match="exactly those of the accused"):
        verify(replace(bare, first=cosigned(bare.first, ["w0"])), FOUR.terms)


@pytest.mark.parametrize(("change", "why"), [
    (lambda e: {"second": head_of(tree_of([1, 3, 4]), key=BOB)}, "wanted one writer's on both"),
    (lambda e: {"second": head_of(tree_of([1, 3, 4]), GENESIS.origin(BOB.public))}, "of two logs"),
    (lambda e: {"first": e.second, "second": e.first}, "the smaller one first"),
    (lambda e: {"first": head_of(tree_of([1, 3]))}, "is a prefix"),
    (lambda e: {"root": bytes(32)}, "leads to root"),
    (lambda e: {"proof": e.proof[1:]}, "proof"),
    (lambda e: {"proof": (*e.proof, bytes(32))}, "too long"),
    (lambda e: {"proof": (b"short",)}, "32-byte"),
    (lambda e: {"first": b"nonsense"}, "signature lines"),
    (lambda e: {"first": b"\xff\n\n"}, "UTF-8"),
    (lambda e: {"first": notes.sign_head(Checkpoint(origin=ALICE_LOG, size=0, root=bytes(32)), ALICE)}, "old size 0"),
    (lambda e: {"begin": b"x" * MAX_BYTES}, "at most"),
])  # fmt: skip
def test_what_does_not_fit_together_proves_nothing(change, why):
    good = evidence_of([1, 2], [1, 3, 4])
    with pytest.raises(EvidenceInvalid, match=why):
        verify(replace(good, **change(good)), GENESIS.terms)


def test_a_log_by_another_key_or_of_another_network_is_no_matter_of_ours():
    for origin in (FOUR_LOG, GENESIS.run_origin(RUN).replace("/run", "")):
        with pytest.raises(EvidenceInvalid):
            found = evidence_of([1, 2], [1, 3, 4], origin)
            verify(found, GENESIS.terms)
    with pytest.raises(EvidenceInvalid, match="no writer and no writer"):
        build(tree_of([2]), head_of(tree_of([1]), key=CAROL), head_of(tree_of([2]), key=CAROL))
    with pytest.raises(EvidenceInvalid, match="not that of"):
        build(tree_of([3, 3]), head_of(tree_of([1])), head_of(tree_of([2, 2])))


@pytest.mark.parametrize("made", [lambda: evidence_of([1, 2], [1, 3, 4]), lambda: evidence_of([1], [2]), run_evidence])
def test_every_mutation_of_a_byte_is_refused_or_proves_the_same(made):
    good = made()
    data = good.encode()
    wanted = verify(good, GENESIS.terms)
    for place in range(len(data)):
        for flip in (1, 32, 128):
            changed = bytearray(data)
            changed[place] ^= flip
            try:
                found = verify(Evidence.parse(bytes(changed)), GENESIS.terms)
            except EvidenceInvalid:
                continue
            assert found == wanted
        for cut in (data[:place], data[:place] + data[place + 1 :], data[:place] + b"0" + data[place:]):
            with pytest.raises(EvidenceInvalid):
                verify(Evidence.parse(cut), GENESIS.terms)


@pytest.mark.parametrize("data", [
    b"", b"[]", b"{}", b'"x"', b"{" * 1000, b" " * (MAX_BYTES + 1),
    b'{"begin":"","first":1,"proof":[],"root":"","second":""}',
    b'{"begin":"","first":"","proof":["00"],"root":"","second":""}',
    b'{"begin":"","first":"","proof":[],"root":"","second":""}',
    b'{"begin":"","first":"","proof":"","root":"","second":""}',
    b'{"begin":"","first":"","proof":[' + b",".join([b'"' + b"00" * 32 + b'"'] * 65) + b'],"root":"","second":""}',
])  # fmt: skip
def test_what_is_no_evidence_is_refused(data):
    with pytest.raises(EvidenceInvalid):
        Evidence.parse(data)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data):
    with pytest.raises(LedgerError):
        verify(Evidence.parse(data), GENESIS.terms)


def test_more_than_f_witnesses_who_cosign_two_heads_are_proven_faulty():
    one, two = tree_of([1, 2]), tree_of([1, 3, 4])
    first = cosigned(head_of(one, FOUR_LOG), ["w0", "w1", "w2"])
    found = build_split(two, first, cosigned(head_of(two, FOUR_LOG), ["w1", "w2", "w3"]), FOUR)
    assert verify_split(found, FOUR) == (FOUR_LOG, ("w1", "w2"))
    assert verify_split(Evidence.parse(found.encode()), FOUR) == (FOUR_LOG, ("w1", "w2"))
    with pytest.raises(EvidenceInvalid, match="no writer"):
        verify(found, FOUR.terms)
    with pytest.raises(EvidenceInvalid, match="by w1, wanted more than 1"):
        build_split(two, first, cosigned(head_of(two, FOUR_LOG), ["w1", "w3"]), FOUR)
    with pytest.raises(EvidenceInvalid):
        verify_split(found, GENESIS)
    with pytest.raises(EvidenceInvalid, match="wanted none"):
        verify_split(replace(found, begin=b"{}"), FOUR)
    with pytest.raises(EvidenceInvalid, match="wanted more than 1"):
        verify_split(build(two, head_of(one, FOUR_LOG), head_of(two, FOUR_LOG)), FOUR)
    forged = found.second.replace(b"w2 ", b"w2 A", 1)
    with pytest.raises(EvidenceInvalid):
        verify_split(replace(found, second=forged), FOUR)


def test_a_send_is_not_the_begin_of_a_run():
    with pytest.raises(EvidenceInvalid, match="another run"):
        verify(run_evidence(begin=Send(to=BOB.public, amount=1).encode()), GENESIS.terms)
