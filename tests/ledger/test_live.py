"""The plug-ins of `forge-ledger`, and a ledger held against what witnesses say.

IO: reads which entry points are installed.
"""

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from ledger import live, notes
from ledger.entries import Send
from ledger.errors import PluginMissing
from ledger.genesis import Genesis
from ledger.live import Head, WitnessView
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.verify.compare import Comparison, Here, compare

from .world import ALICE, BOB, NOW, key_of

KEYS = {f"w{number}": key_of(f"live w{number}") for number in range(1, 5)}
FOUR = Genesis.create(
    name="four", supply={ALICE.public: 10**6}, witnesses=[(name, key.public) for name, key in KEYS.items()], f=1
)
LOG = FOUR.origin(ALICE.public)


def entries(count: int, memo: str = "") -> list[bytes]:
    return [Send(to=BOB.public, amount=1 + i, memo=memo).encode() for i in range(count)]


def tree_of(data: list[bytes]) -> Tree:
    return Tree(map(leaf_hash, data))


def signed(data: list[bytes], key=ALICE, origin: str = LOG) -> bytes:
    tree = tree_of(data)
    return notes.sign_head(Checkpoint(origin=origin, size=tree.size, root=tree.root()), key)


def certificate(data: list[bytes], by: str = "w1 w2 w3", origin: str = LOG) -> bytes:
    note = signed(data, origin=origin)
    return notes.combine(note, [notes.cosign(note, name, KEYS[name], NOW) for name in by.split()])


def here(data: list[bytes]) -> Here:
    note = certificate(data)
    return Here(
        head=notes.checkpoint(notes.parse(note)), note=note, writers=(ALICE.public,), tree=lambda: tree_of(data)
    )


def view(certified: bytes = b"", promised: bytes = b"", proof: list[bytes] | None = None) -> WitnessView:
    head = Head(certificate=certified, promised=promised, proof=tuple(proof or ()))
    return WitnessView(heads={LOG: head}, sizes={LOG: 1} if certified else {})


OURS = entries(5)


def held(*views: WitnessView, ours: list[bytes] | None = None) -> Comparison:
    """Our five entries against these witnesses."""
    ours = OURS if ours is None else ours
    named = {f"w{number}": item for number, item in enumerate(views, 1)}
    return compare(FOUR, [(LOG, here(ours) if ours else None)], named)


def test_witnesses_that_certify_the_same_show_that_it_is_current():
    found = held(*[view(certificate(OURS), signed(OURS))] * 4)
    assert (found.answered, found.compared, found.current) == (["w1", "w2", "w3", "w4"], 1, True)


def test_a_witness_that_is_itself_behind_changes_nothing():
    found = held(view(certificate(OURS[:3])), view(), view(certificate(OURS)))
    assert found.current
    assert found.compared == 1


def test_more_that_is_certified_elsewhere_is_told_with_those_who_say_so():
    more = [*OURS, *entries(3, "later")]
    proof = tree_of(more).consistency_proof(5, 8)
    found = held(view(certificate(more), proof=proof), view(certificate(OURS)), view(certificate(more), proof=proof))
    assert found.behind == {LOG: (5, 8, ["w1", "w3"])}
    assert (found.current, found.forks, found.unproven) == (False, [], [])


def test_a_later_head_without_a_good_proof_is_looked_into():
    more = [*OURS, *entries(3, "later")]
    other = entries(8, "other")
    for bad in (view(certificate(more)), view(certificate(other), proof=tree_of(other).consistency_proof(5, 8))):
        assert held(bad).unproven == [(LOG, "w1")]


@pytest.mark.parametrize("size", [5, 3, 1])
def test_a_certified_head_that_contradicts_ours_is_a_fork(size):
    found = held(view(certificate(OURS)), view(certificate(entries(size, "other"))))
    [fork] = found.forks
    assert (fork.origin, fork.witness, fork.certified) == (LOG, "w2", True)
    assert f"certified here at 5, and at {size} another one certified, by w2" in str(fork)
    assert found.to_json()["forks"][0]["ours"] == certificate(OURS).decode()


def test_a_promise_that_contradicts_what_is_certified_accuses_the_owner_not_the_network():
    found = held(view(certificate(OURS), signed(entries(4, "other"))))
    assert found.forks == []
    assert "at 4 another one signed by its owner, by w1" in str(found.equivocations[0])


def test_a_promise_to_another_leader_of_a_run_accuses_nobody():
    ours = replace(here(OURS), writers=(ALICE.public, BOB.public))
    found = compare(FOUR, [(LOG, ours)], {"w1": view(certificate(OURS), signed(entries(4, "other"), BOB))})
    assert (found.equivocations, found.forks, found.answered) == ([], [], ["w1"])


def test_a_log_that_is_not_here_is_counted():
    other = FOUR.origin(BOB.public)
    views = {"w1": WitnessView(sizes={other: 7, "nonsense": 3, LOG: 5}), "w2": WitnessView(sizes={other: 9})}
    found = compare(FOUR, [(LOG, here(OURS))], views)
    assert found.unknown == {other: 9}
    assert not found.current


def test_nothing_certified_here_is_behind_anything_certified_there():
    assert held(view(certificate(OURS)), ours=[]).behind == {LOG: (0, 5, ["w1"])}


@pytest.mark.parametrize("bad", [
    view(b"nonsense"), view(certificate(OURS, "w1 w2")), view(certificate(OURS, origin=FOUR.origin(BOB.public))),
    view(certificate(OURS).replace(b"\n5\n", b"\n6\n")), view(promised=b"nonsense"), view(promised=signed(OURS, BOB)),
    view(promised=signed(OURS, origin=FOUR.origin(BOB.public))), view(certificate(OURS) + b"x"),
    view(notes.combine(signed(OURS), [notes.cosign(signed(OURS), "w1", KEYS["w2"], NOW)] * 3)),
])  # fmt: skip
def test_a_witness_that_answers_nonsense_is_listed_and_does_not_count(bad):
    found = held(view(certificate(OURS)), bad, replace(view(), error="no answer"))
    assert found.answered == ["w1"]
    assert set(found.failed) == {"w2", "w3"}
    assert found.failed["w3"] == "no answer"
    assert not found.forks


def test_without_any_answer_nothing_is_known():
    found = held(WitnessView(error="silent"), WitnessView(error="silent"))
    assert not found.current
    assert found.answered == []


# Plug-ins.


def plugged(monkeypatch, *points: EntryPoint) -> None:
    def installed(group: str, name: str) -> list[EntryPoint]:
        return [point for point in points if (point.group, point.name) == (group, name)]

    monkeypatch.setattr(live, "entry_points", installed)


def test_a_plug_in_is_an_instance_of_the_class_that_the_entry_point_names(monkeypatch):
    plugged(monkeypatch, EntryPoint("live", "tests.ledger.test_live:Fake", live.GROUP))
    assert type(live.live()).__name__ == "Fake"


class Fake:
    """A plug-in that does nothing."""


@pytest.mark.parametrize("value", ["tests.ledger.test_live:Missing", "no.such.module:Thing"])
def test_a_plug_in_that_cannot_be_loaded_is_told(monkeypatch, value):
    plugged(monkeypatch, EntryPoint("replay", value, live.GROUP))
    with pytest.raises(PluginMissing, match=f"replaying a run: the plug-in {value} cannot be loaded"):
        live.replay()


def test_a_missing_plug_in_says_what_to_install(monkeypatch):
    plugged(monkeypatch)
    with pytest.raises(PluginMissing, match=r"asking live witnesses: no plug-in 'live'.* install the whole"):
        live.live()
