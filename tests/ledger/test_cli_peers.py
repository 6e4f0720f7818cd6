"""`forge-ledger verify --peers`: witnesses that agree, are ahead, fork, lie or are silent.

IO: stores in temporary places; witnesses are told of, not asked.
"""

import json
import re

import pytest

from ledger import evidence, live, notes
from ledger.entries import Send
from ledger.errors import LedgerError
from ledger.genesis import Genesis
from ledger.live import Head, Tail, WitnessView
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Store

from .cli_kit import call, call_json, tampered
from .world import ALICE, BOB, NOW, key_of

KEYS = {f"w{number}": key_of(f"verify w{number}") for number in range(1, 5)}
FOUR = Genesis.create(
    name="four", supply={ALICE.public: 10**6}, witnesses=[(name, key.public) for name, key in KEYS.items()], f=1
)
LOG = FOUR.origin(ALICE.public)


def sends(count: int, memo: str = "") -> list[bytes]:
    return [Send(to=BOB.public, amount=1 + i, memo=memo).encode() for i in range(count)]


def certificate(data: list[bytes], by: str = "w1 w2 w3") -> bytes:
    head = Checkpoint(origin=LOG, size=len(data), root=Tree(map(leaf_hash, data)).root())
    note = notes.sign_head(head, ALICE)
    return notes.combine(note, [notes.cosign(note, name, KEYS[name], NOW) for name in by.split()])


OURS, LATER, OTHER = sends(5), [*sends(5), *sends(2, "later")], sends(7, "other")


@pytest.fixture
def four(tmp_path):
    """A home with a log of five certified entries under four witnesses."""
    folder = tmp_path / "four"
    folder.mkdir()
    with Store.open(folder / "ledger.db", FOUR, create=True) as store:
        store.accept(LOG, 0, OURS, certificate(OURS))
    (folder / "network.json").write_text(json.dumps({"genesis": FOUR.to_json(), "bootstrap": ["/ip4/x/p2p/a"]}))
    (folder / "peers.json").write_text('["/ip4/y/p2p/b", 3]')
    (folder / "peer.toml").write_text('bootstrap = ["/ip4/w/p2p/d"]')
    return folder


class Witnesses:
    """The plug-in, with answers of its own."""

    def __init__(self, *answers: "list[bytes] | str", tail: "list[bytes] | None" = None) -> None:
        self.answers, self.tail = answers, tail
        self.asked: list[object] = []

    def heads(self, genesis, bootstrap, sizes, timeout_s):
        self.asked = [*bootstrap]
        found = {}
        for number, answer in enumerate(self.answers, 1):
            if isinstance(answer, str):
                found[f"w{number}"] = WitnessView(error=answer)
                continue
            proof = []
            if answer is LATER:
                proof = Tree(map(leaf_hash, answer)).consistency_proof(5, len(answer))
            head = Head(certificate=certificate(answer), promised=b"", proof=tuple(proof))
            found[f"w{number}"] = WitnessView(heads={LOG: head}, sizes={LOG: len(answer)})
        return found

    def entries(self, genesis, bootstrap, starts, timeout_s):
        tail = self.tail if self.tail is not None else OTHER
        names = [f"w{number}" for number in range(1, len(self.answers) + 1)]
        return {origin: {name: Tail(entries=tuple(tail[start:])) for name in names} for origin, start in starts.items()}


def asking(monkeypatch, *answers, tail=None) -> Witnesses:
    plugin = Witnesses(*answers, tail=tail)
    monkeypatch.setattr(live, "live", lambda: plugin)
    return plugin


def test_witnesses_that_agree_show_that_nothing_is_missing(four, monkeypatch):
    plugin = asking(monkeypatch, OURS, OURS, OURS, "no whole answer within 15 s")
    output = call("verify", "--home", four, "--peers", "--bootstrap", "/ip4/z/p2p/c").stdout
    assert plugin.asked == ["/ip4/z/p2p/c", "/ip4/x/p2p/a", "/ip4/w/p2p/d", "/ip4/y/p2p/b"]
    assert "3 of 4 witnesses answered (w1, w2, w3)\n  w4: no whole answer within 15 s\n1 log compared" in output
    assert "nothing later is certified by the 3 of 4 witnesses that answered just now" in output
    assert "rolled back" not in output
    assert "this is all there is" not in output
    assert "SOUND" in output


def test_without_witnesses_a_rollback_cannot_be_seen_and_that_is_said(four):
    assert "not rolled back to an older certified state: only live witnesses (--peers)" in call(
        "verify", "--home", four
    ).stdout.replace("\n", " ")


def test_a_later_certified_head_is_a_rollback_or_not_synced(four, monkeypatch):
    asking(monkeypatch, LATER, OURS, LATER, OURS)
    output = call("verify", "--home", four, "--peers").stdout
    assert "1 log is behind what witnesses certify: a rollback, or simply not synced yet" in output
    assert re.search(r"d5bf4a3fcce7…: 5 entries here, 7 certified by w1, w3", output)
    assert "rolled back" in output
    body = call_json("verify", "--home", four, "--peers")
    assert (body["ok"], body["peers"]["current"]) == (True, False)
    assert body["peers"]["behind"] == [{"origin": LOG, "here": 5, "certified": 7, "witnesses": ["w1", "w3"]}]


@pytest.mark.parametrize("other", [sends(5, "other"), sends(3, "other"), OTHER], ids=["equal", "smaller", "larger"])
def test_a_fork_is_not_sound_and_both_heads_become_evidence(four, monkeypatch, tmp_path, other):
    asking(monkeypatch, OURS, other, OURS, OURS)
    result = call("verify", "--home", four, "--peers", "--evidence", tmp_path, code=1)
    assert f"FORK: {LOG}: certified here at 5, and at {len(other)} another one certified, by w2" in result.stdout
    assert "NOT SOUND: 1 fault" in result.stdout
    for note in (certificate(OURS), certificate(other)):
        for line in note.decode().splitlines():
            assert line in result.stdout
    [file] = tmp_path.glob("evidence-*.json")
    found = evidence.Evidence.parse(file.read_bytes())
    assert evidence.verify_split(found, FOUR) == (LOG, ("w1", "w2", "w3"))
    body = call_json("verify", "--home", four, "--peers", "--evidence", tmp_path, code=1)
    assert body["faults"][0]["rule"] == "fork"
    assert body["peers"]["evidence"] == [str(file)]


def test_a_witness_whose_later_head_leads_nowhere_is_no_fork(four, monkeypatch, tmp_path):
    asking(monkeypatch, OURS, OTHER, OURS, OURS, tail=[])
    output = call("verify", "--home", four, "--peers", "--evidence", tmp_path).stdout
    assert "3 of 4 witnesses answered (w1, w3, w4)\n  w2: " in output
    assert "does not show that its head at 7 continues ours" in output
    assert list(tmp_path.glob("evidence*")) == []


def test_when_no_witness_answers_the_report_is_there_and_the_exit_code_is_2(four, monkeypatch):
    asking(monkeypatch, *["gone"] * 4)
    output = call("verify", "--home", four, "--peers", code=2).stdout
    assert "0 of 4 witnesses answered" in output
    assert "SOUND" in output
    body = call_json("verify", "--home", four, "--peers", code=2)
    assert body["peers"]["failed"] == dict.fromkeys(KEYS, "gone")


def test_a_network_that_cannot_be_joined_is_told_after_the_report(four, monkeypatch):
    def nobody():
        raise LedgerError("FP-301", "no bootstrap peer answers")

    monkeypatch.setattr(live, "live", nobody)
    result = call("verify", "--home", four, "--peers", code=2)
    assert "SOUND" in result.stdout
    assert "FP-301: no bootstrap peer answers" in result.stderr
    assert call_json("verify", "--home", four, "--peers", code=2)["errors"][0]["code"] == "FP-301"


def test_witnesses_are_not_asked_about_an_unsound_ledger(home, tmp_path, monkeypatch):
    asking(monkeypatch, OURS)
    output = call("verify", "--home", tampered(home, tmp_path), "--peers", code=1).stdout
    assert "--peers: left out, because the ledger is not sound" in output
