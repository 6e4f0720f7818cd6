"""Random mutations of a real certified ledger: none is accepted. `scripts/long/mutations.py` plays 100,000."""

from collections import Counter

import pytest

from ledger import keys, notes
from ledger.genesis import Genesis
from tests.ledger.tamper.mutations import KINDS, Bench

SEEDS = range(300)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("mutations"))


def test_none_of_them_is_accepted(bench):
    outcomes: Counter[str] = Counter()
    refused_by_kind: Counter[str] = Counter()
    for seed in SEEDS:
        judged = bench.play(seed)
        assert judged.good, f"seed {seed}: {judged}"
        outcomes[judged.outcome] += 1
        refused_by_kind[judged.kind] += judged.outcome == "refused"
    assert set(outcomes) == {"refused", "same", "withheld"}
    assert outcomes["refused"] > 200
    assert all(refused_by_kind[kind] for kind in KINDS)


def test_one_seed_is_one_mutation(bench):
    assert [bench.play(seed) for seed in range(20)] == [bench.play(seed) for seed in range(20)]


def _no_quorum(monkeypatch):
    monkeypatch.setattr(Genesis, "quorum", 2)


def _no_signatures(monkeypatch):
    monkeypatch.setattr(keys, "verify", lambda public, message, signature: None)


def _any_line_counts(monkeypatch):
    monkeypatch.setattr(notes, "cosigned_at", lambda note, name, public: len(note.signatures) > 3 or None)


@pytest.mark.parametrize("break_it", [_no_quorum, _no_signatures, _any_line_counts])
def test_a_verifier_that_does_not_look_is_caught(bench, monkeypatch, break_it):
    break_it(monkeypatch)
    for seed in range(3000):
        if bench.play(seed).outcome == "ACCEPTED":
            return
    pytest.fail("no mutation told the broken verifier from the right one")
