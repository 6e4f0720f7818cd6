"""The quorum: which lines count."""

import pytest

from ledger import notes
from ledger.errors import NoteInvalid
from ledger.genesis import Genesis
from ledger.notes import Checkpoint
from ledger.quorum import Quorum

from .world import ALICE, NOW, key_of

KEYS = {f"w{place}": key_of(f"w{place}") for place in range(4)}
NETWORK = Genesis.create(
    name="four", supply={ALICE.public: 100}, witnesses=[(name, key.public) for name, key in KEYS.items()]
)
ORIGIN = NETWORK.origin(ALICE.public)


def head_of(size):
    return notes.sign_head(Checkpoint(origin=ORIGIN, size=size, root=bytes(32)), ALICE)


def line_of(name, size=1, key=None):
    return notes.cosign(head_of(size), name, key or KEYS[name], NOW)


def test_three_of_four_witnesses_make_a_certificate():
    quorum = Quorum(NETWORK, head_of(1))
    assert [quorum.add(name, line_of(name)) for name in ("w2", "w0")] == [False, False]
    assert quorum.certificate is None
    assert quorum.add("w3", line_of("w3"))
    assert NETWORK.cosigners(notes.parse(quorum.certificate)) == ["w0", "w2", "w3"]
    assert quorum.missing == ("w1",)
    assert quorum.add("w1", line_of("w1"))
    assert quorum.missing == ()


def test_a_witness_counts_once():
    quorum = Quorum(NETWORK, head_of(1))
    for _ in range(5):
        assert not quorum.add("w0", line_of("w0"))
    assert not quorum.add("w0", notes.cosign(head_of(1), "w0", KEYS["w0"], NOW + 1))


@pytest.mark.parametrize("line", [
    b"", b"\n", b"garbage", b"\xff\xfe", "— w1 AAAA\n".encode(), "— w0 AAAAAAAA\n".encode(), b"x" * 100_000,
    line_of("w1"), line_of("w0", size=2), line_of("w0", key=KEYS["w1"]), line_of("w0") + line_of("w1"),
    line_of("w0")[:-9] + b"\n", head_of(1).splitlines(keepends=True)[-1],
])  # fmt: skip
def test_what_is_not_the_cosignature_of_that_witness_on_that_head_changes_nothing(line):
    quorum = Quorum(NETWORK, head_of(1))
    with pytest.raises(NoteInvalid):
        quorum.add("w0", line)
    assert quorum.missing == tuple(KEYS)
    for name in ("w1", "w2", "w3"):
        quorum.add(name, line_of(name))
    assert NETWORK.cosigners(notes.parse(quorum.certificate)) == ["w1", "w2", "w3"]


def test_a_stranger_is_not_counted():
    with pytest.raises(NoteInvalid, match="not a witness"):
        Quorum(NETWORK, head_of(1)).add("stranger", line_of("w0"))
    with pytest.raises(NoteInvalid):
        Quorum(NETWORK, b"no note")
