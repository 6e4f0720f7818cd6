"""A certificates file is read exactly as it is written, and nothing else is."""

import pytest

from ledger import certificates, notes
from ledger.errors import NoteInvalid
from ledger.notes import Checkpoint

from .world import ALICE, ALICE_LOG, BOB, BOB_LOG, NOW, WITNESS


def certificate(origin, key, size=3):
    head = notes.sign_head(Checkpoint(origin=origin, size=size, root=bytes(32)), key)
    return notes.parse(notes.combine(head, [notes.cosign(head, "witness", WITNESS, NOW)]))


ALICES, BOBS = certificate(ALICE_LOG, ALICE), certificate(BOB_LOG, BOB)
BOTH = certificates.write({BOB_LOG: BOBS, ALICE_LOG: ALICES})


def test_what_is_written_is_read_again():
    assert certificates.parse(BOTH) == {ALICE_LOG: ALICES, BOB_LOG: BOBS}
    assert certificates.write(certificates.parse(BOTH)) == BOTH


def test_one_checkpoint_is_such_a_file_and_so_is_an_empty_one():
    assert certificates.parse(ALICES.encode()) == {ALICE_LOG: ALICES}
    assert certificates.parse(b"") == certificates.parse(certificates.write({})) == {}


def test_a_log_that_occurs_twice_is_named():
    twice = ALICES.encode() + b"\n" + certificate(ALICE_LOG, ALICE, 4).encode()
    with pytest.raises(NoteInvalid, match=f"note 2: {ALICE_LOG} occurs twice"):
        certificates.parse(twice)


@pytest.mark.parametrize("data", [
    BOTH + b"\n", b"\n" + BOTH, BOTH[:-1], BOTH.replace(b"\n\n", b"\n\n\n", 1), BOTH + b"and more", b"\n", b"\xff",
    ALICES.encode() + BOBS.encode(), ALICES.encode() + b"\n\n" + BOBS.encode(), ALICES.text.encode(),
])  # fmt: skip
def test_anything_else_is_refused(data):
    with pytest.raises(NoteInvalid):
        certificates.parse(data)


def test_no_byte_can_be_cut_out_of_it():
    for at in range(len(BOTH)):
        try:
            found = certificates.parse(BOTH[:at] + BOTH[at + 1 :])
        except NoteInvalid:
            continue
        assert found != certificates.parse(BOTH)  # another name or text: its signatures fail where they are checked
