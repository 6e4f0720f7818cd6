"""Random mutations of a real certified ledger: none is accepted. `scripts/long/mutations.py` plays 100,000."""

from collections import Counter

import pytest

from ledger import keys, notes
from ledger.genesis import Genesis
from tests.ledger.tamper.mutations import KINDS, Bench

SEEDS = range(28)
"""So many of each kind, some of them with others on top."""
ALL_HARM = {"note", "notes exchanged", "entry field", "entries moved", "entry bytes", "origins", "collusion"}
"""Kinds of changes that nearly always hit what is certified; others may hit what nothing depends on."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("mutations"))


def test_none_of_them_is_accepted(bench):
    outcomes: Counter[str] = Counter()
    for number, kind in enumerate(KINDS):
        here: Counter[str] = Counter()
        for seed in SEEDS:
            judged = bench.play(1000 * number + seed, kind)
            assert judged.good, f"seed {1000 * number + seed}, {kind}: {judged}"
            here[judged.outcome] += 1
        assert kind not in ALL_HARM or here["refused"] > len(SEEDS) / 3, (kind, here)
        outcomes += here
    assert set(outcomes) == {"refused", "same", "withheld"}


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
    for seed in range(500):
        if bench.play(seed, "collusion").outcome == "ACCEPTED":
            return
    pytest.fail("no mutation told the broken verifier from the right one")
