"""Signed notes, checkpoints, cosignatures."""

import base64
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import notes
from ledger.errors import NoteInvalid
from ledger.notes import Checkpoint

from .world import ALICE, ALICE_LOG, BOB, NOW, WITNESS

HEAD = Checkpoint(origin=ALICE_LOG, size=7, root=sha256(b"x").digest())
SIGNED = notes.sign_head(HEAD, ALICE)
LINE = notes.cosign(SIGNED, "witness", WITNESS, NOW)
CERTIFIED = notes.combine(SIGNED, [LINE])

# A note of another program, with a key that we do not know.
EXAMPLE = (
    "This is an example message.\n"
    "\n"
    "— example.com/foo Zoop/3gL0gB6FxoC+X+cwELO8Y7MMgPOoFZ2lG7aMNFBhzGV0eYQ3Ug8CSRh7XSS0lYkQ0DK4q2Wg9Zc2x0Zw3Z1Bg==\n"
).encode()


def test_a_head_reads_as_the_specification_says():
    text, line = SIGNED.decode().split("\n\n")
    assert text + "\n" == f"{ALICE_LOG}\n7\n{base64.b64encode(HEAD.root).decode()}\n"
    dash, name, blob = line.rstrip("\n").split(" ")
    key_id = sha256(ALICE_LOG.encode() + b"\n\x01" + bytes.fromhex(ALICE.public)).digest()[:4]
    assert (dash, name) == ("—", ALICE_LOG)
    assert base64.b64decode(blob) == key_id + ALICE.sign(HEAD.text().encode())


def test_a_cosignature_signs_time_and_text():
    blob = base64.b64decode(LINE.decode().split(" ")[2])
    key_id = sha256(b"witness\n\x04" + bytes.fromhex(WITNESS.public)).digest()[:4]
    signed = f"cosignature/v1\ntime {NOW}\n{HEAD.text()}".encode()
    assert blob == key_id + NOW.to_bytes(8, "big") + WITNESS.sign(signed)


def test_a_foreign_note_can_be_read():
    assert notes.parse(EXAMPLE).signatures[0].name == "example.com/foo"
    assert notes.parse(EXAMPLE).encode() == EXAMPLE


def test_head_and_cosignature_verify():
    note = notes.parse(CERTIFIED)
    assert notes.checkpoint(note) == HEAD
    assert notes.verify_head(note, [BOB.public, ALICE.public]) == ALICE.public
    assert notes.cosigned_at(note, "witness", WITNESS.public) == NOW
    assert notes.cosigned_at(note, "other", WITNESS.public) is None
    assert notes.cosigned_at(notes.parse(SIGNED), "witness", WITNESS.public) is None


def test_a_line_is_combined_once():
    assert notes.combine(CERTIFIED, [LINE, LINE]) == CERTIFIED


def test_a_head_that_no_writer_signed_is_refused():
    with pytest.raises(NoteInvalid, match="not signed by any"):
        notes.verify_head(notes.parse(SIGNED), [BOB.public])


@given(st.integers(0, len(CERTIFIED) - 1), st.integers(1, 255))
def test_a_note_with_one_byte_changed_is_refused_or_lacks_a_signature(at, flip):
    bad = CERTIFIED[:at] + bytes([CERTIFIED[at] ^ flip]) + CERTIFIED[at + 1 :]
    with pytest.raises(NoteInvalid):
        note = notes.parse(bad)
        notes.checkpoint(note)
        notes.verify_head(note, [ALICE.public])
        if notes.cosigned_at(note, "witness", WITNESS.public) is None:
            raise NoteInvalid("no cosignature")


@pytest.mark.parametrize("data", [
    b"", b"\n\n", b"text\n", b"text\n\n", SIGNED[:-1], SIGNED + b"\n", SIGNED.replace("—".encode(), b"-"),
    b"\xff" + SIGNED,
    b"a\tb\n" + SIGNED, SIGNED + "— a QQ==\n".encode(), SIGNED + "— a+b AAAAAAAA\n".encode(), b"x" * 70000,
    b"text\n\n" + "— a AAAAAAAA\n".encode() * 65, SIGNED + "— a AAAAAAB=\n".encode(), SIGNED + b"\x00",
])  # fmt: skip
def test_malformed_notes_are_refused(data):
    with pytest.raises(NoteInvalid):
        notes.parse(data)


@pytest.mark.parametrize("text", [
    "o\n1\n", "o\n01\nQQ==\n", "o\n1\nQQ==\n", f"o\n1\n{base64.b64encode(bytes(32)).decode()}\nextra\n", "\n1\nQQ==\n",
    f"o\n+1\n{base64.b64encode(bytes(32)).decode()}\n", f"o\n\n{base64.b64encode(bytes(32)).decode()}\n",
])  # fmt: skip
def test_texts_that_are_no_checkpoint_are_refused(text):
    with pytest.raises(NoteInvalid):
        notes.checkpoint(notes.Note(text=text, signatures=()))


def test_verifier_keys_have_the_form_third_parties_take():
    name, key_id, key = notes.vkey("witness", WITNESS.public, witness=True).split("+", 2)
    assert (name, key_id) == ("witness", notes.witness_key_id("witness", WITNESS.public).hex())
    assert base64.b64decode(key) == b"\x04" + bytes.fromhex(WITNESS.public)
    assert notes.vkey("log", ALICE.public).split("+", 2)[1] == notes.log_key_id("log", ALICE.public).hex()


@pytest.mark.parametrize("name", ["", "a b", "a+b", "é", "a\n", "x" * 256])
def test_names_that_a_key_cannot_bear_are_refused(name):
    with pytest.raises(NoteInvalid):
        notes.check_name(name)
