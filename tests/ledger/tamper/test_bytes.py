"""Bytes: flipped bits, other spellings, what is too long, unknown or too much."""

import json

import pytest

from ledger import codec, notes
from ledger.codec import b64decode, b64encode
from ledger.entries import Receipt
from ledger.errors import CodecInvalid, Conflict, EntryInvalid, NoteInvalid
from ledger.merkle import leaf_hash
from tests.ledger.world import NOW

from .kit import ALICE_LOG, BOB, BOB_LOG, DATA, LOGS, RUN_LOG, WITNESSES, certificate, head

RECEIPT = next(index for index, entry in enumerate(LOGS[RUN_LOG]) if isinstance(entry, Receipt))
SIZE = len(DATA[RUN_LOG])


def flipped(data: bytes, at: int, bit: int = 1) -> bytes:
    """The bytes with a bit of one of them flipped."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def within(data: bytes, field: str) -> int:
    """Where the value of a field begins."""
    return data.index(f'"{field}":'.encode()) + len(field) + 4


class TestBitFlipInAnEntry:
    """A stored entry's bytes are not what was hashed."""

    @pytest.mark.parametrize("index", range(SIZE))
    @pytest.mark.parametrize("place", [0, 0.37, 0.71, 1])
    def test_the_verifier_names_the_entry_and_its_hash(self, ledger, index, place):
        data = DATA[RUN_LOG][index]
        ledger.set(RUN_LOG, index, flipped(data, int(place * (len(data) - 1)), 4))
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, index, "leaf hash")
        assert fault.wanted == leaf_hash(data).hex()
        assert any("shows that the entry was changed" in line for line in fault.further)

    def test_with_its_hash_made_to_fit_the_entry_is_named_where_it_is_signed(self, ledger):
        data = DATA[RUN_LOG][RECEIPT]
        bad = flipped(data, within(data, "loss"))
        ledger.set(RUN_LOG, RECEIPT, bad, leaf=leaf_hash(bad))
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, RECEIPT, "signature")

    def test_with_its_hash_made_to_fit_the_certified_root_tells_where_it_is_not(self, ledger):
        data = DATA[ALICE_LOG][0]
        bad = data.replace(b'"amount":500', b'"amount":501')
        ledger.set(ALICE_LOG, 0, bad, leaf=leaf_hash(bad))
        fault = ledger.fault()
        assert (fault.origin, fault.rule) == (ALICE_LOG, "root of 3 entries")

    def test_no_replica_takes_it(self, replica):
        bad = DATA[ALICE_LOG][0].replace(b'"amount":500', b'"amount":501')
        with pytest.raises(Conflict, match="root"):
            replica.accept(ALICE_LOG, 0, [bad, *DATA[ALICE_LOG][1:]], certificate(ALICE_LOG, DATA[ALICE_LOG]))
        assert replica.origins() == []


class TestBitFlipInALeaf:
    """A stored leaf hash is not that of its entry."""

    @pytest.mark.parametrize("index", [0, RECEIPT, SIZE - 1])
    def test_the_verifier_names_the_entry_and_that_only_its_hash_was_changed(self, ledger, index):
        ledger.set(RUN_LOG, index, DATA[RUN_LOG][index], leaf=flipped(leaf_hash(DATA[RUN_LOG][index]), 5))
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, index, "leaf hash")
        assert any("the stored hash was changed, not the entry" in line for line in fault.further)

    @pytest.mark.parametrize("leaf", [b"", bytes(31), bytes(33)])
    def test_one_of_another_length_is_named_too(self, ledger, leaf):
        ledger.set(RUN_LOG, RECEIPT, DATA[RUN_LOG][RECEIPT], leaf=leaf)
        assert (ledger.fault().entry, ledger.fault().rule) == (RECEIPT, "leaf hash")


class TestBitFlipInARoot:
    """A root, in its row or in the note, is not that of the entries."""

    @pytest.mark.parametrize("table", ["head", "certificate", "promise"])
    def test_in_the_row_of_a_head(self, ledger, table):
        row = ledger.row(RUN_LOG)
        [(root,)] = ledger.sql(f"SELECT root FROM {table} WHERE log = ?", row)
        ledger.sql(f"UPDATE {table} SET root = ? WHERE log = ?", flipped(root, 9), row)
        fault = ledger.fault()
        assert (fault.origin, fault.rule) == (RUN_LOG, f"root of {SIZE} entries")
        assert f"that of the {table}" in fault.wanted

    @pytest.mark.parametrize("table", ["head", "certificate", "promise"])
    def test_in_the_note(self, ledger, table):
        lines = ledger.note(RUN_LOG, table).decode().split("\n")
        lines[2] = b64encode(flipped(b64decode(lines[2]), 9))
        ledger.set_note(RUN_LOG, "\n".join(lines).encode(), table)
        fault = ledger.fault()
        assert (fault.origin, fault.rule) == (RUN_LOG, f"{table} at {SIZE}")

    def test_in_what_a_recv_names_it_is_void(self, ledger):
        bob = list(LOGS[BOB_LOG])
        wrong = flipped(bytes.fromhex(bob[0].root), 3).hex()
        ledger.forge(BOB_LOG, [type(bob[0])(**{**vars(bob[0]), "root": wrong})])
        assert ledger.void() == (BOB_LOG, 0, "root")


class TestBitFlipInASignature:
    """A signature does not fit what it stands under."""

    @pytest.mark.parametrize("place", range(0, 128, 17))
    def test_of_a_receipt(self, ledger, replica, place):
        entry = LOGS[RUN_LOG][RECEIPT]
        digit = "0" if entry.signature[place] != "0" else "1"
        signature = entry.signature[:place] + digit + entry.signature[place + 1 :]
        bad = Receipt(**{**vars(entry), "signature": signature})
        run = [*LOGS[RUN_LOG][:RECEIPT], bad, *LOGS[RUN_LOG][RECEIPT + 1 :]]
        ledger.forge(RUN_LOG, run)
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, RECEIPT, "signature")
        with pytest.raises(EntryInvalid) as caught:
            replica.accept(RUN_LOG, 0, [item.encode() for item in run], certificate(RUN_LOG, run))
        assert (caught.value.index, caught.value.rule) == (RECEIPT, "signature")

    @pytest.mark.parametrize("table", ["head", "certificate", "promise"])
    @pytest.mark.parametrize("at", [4, 30, 67])
    def test_of_a_head_by_its_owner(self, ledger, table, at):
        self._flip(ledger, table, line=4, at=at)
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, None, f"{table} at {SIZE}")
        assert "does not verify" in fault.got

    @pytest.mark.parametrize("line", [5, 6, 7])
    @pytest.mark.parametrize("at", [4, 11, 12, 75])
    def test_of_a_witness_or_in_the_time_that_it_signed(self, ledger, replica, line, at):
        note = self._flip(ledger, "certificate", line, at)
        fault = ledger.fault()
        assert (fault.origin, fault.rule) == (RUN_LOG, f"certificate at {SIZE}")
        assert f"cosignature of w{line - 5}" in fault.got
        with pytest.raises(NoteInvalid, match=f"cosignature of w{line - 5}"):
            replica.accept(RUN_LOG, 0, DATA[RUN_LOG], note)

    @staticmethod
    def _flip(ledger, table, line, at):
        lines = ledger.note(RUN_LOG, table).decode().split("\n")
        dash, name, blob = lines[line].split(" ")
        lines[line] = f"{dash} {name} {b64encode(flipped(b64decode(blob), at))}"
        ledger.set_note(RUN_LOG, "\n".join(lines).encode(), table)
        return ledger.note(RUN_LOG, table)


class TestBitFlipInANote:
    """Any byte of a note is not what was signed."""

    def test_every_byte_of_every_line_matters(self, ledger):
        whole = ledger.note(BOB_LOG)
        for at in range(0, len(whole), 7):
            ledger.set_note(BOB_LOG, flipped(whole, at, 1 << at % 8))
            fault = ledger.fault()
            assert (fault.origin, fault.rule) == (BOB_LOG, "certificate at 3")
        ledger.set_note(BOB_LOG, whole)
        ledger.sound()


class TestNonCanonicalJson:
    """The same value in another spelling."""

    SPELLINGS = (
        lambda data: data.replace(b":", b": ", 1), lambda data: b" " + data, lambda data: data + b"\n",
        lambda data: json.dumps(dict(reversed(json.loads(data).items())), separators=(",", ":")).encode(),
        lambda data: data.replace(b"hello", b"h\\u0065llo"), lambda data: data.replace(b"{", b'{"amount":1,', 1),
        lambda data: b"\xef\xbb\xbf" + data, lambda data: data.replace(b'"hello"', b'"\\/"'),
    )  # fmt: skip

    @pytest.mark.parametrize("spell", SPELLINGS)
    def test_is_refused_with_its_entry_even_when_all_signed_it(self, ledger, replica, spell):
        log = [*DATA[ALICE_LOG], spell(DATA[ALICE_LOG][0])]
        ledger.forge(ALICE_LOG, log)
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (ALICE_LOG, 3, "encoding")
        with pytest.raises(EntryInvalid) as caught:
            replica.accept(ALICE_LOG, 0, log, certificate(ALICE_LOG, log))
        assert (caught.value.index, caught.value.rule) == (3, "encoding")
        assert ledger.report().ledger.decided[ALICE_LOG] == 3


class TestNonCanonicalBase64:
    """The same bytes in another base64."""

    CHANGES = (
        lambda line: line.rstrip("="), lambda line: line + "=", lambda line: line.replace("+", "-").replace("/", "_"),
        lambda line: line[:-2] + chr(ord(line[-2]) + 1) + "=", lambda line: line[:8] + "\r" + line[8:],
        lambda line: f" {line}",
    )  # fmt: skip

    @pytest.mark.parametrize("change", CHANGES)
    def test_of_a_root_is_refused(self, ledger, change):
        roots = {origin: ledger.note(origin).decode().split("\n")[2] for origin in DATA}
        origin = next(origin for origin, root in roots.items() if change(root) != root)
        note = ledger.note(origin).decode().replace(roots[origin], change(roots[origin]))
        ledger.set_note(origin, note.encode())
        assert (ledger.fault().origin, ledger.fault().rule) == (origin, f"certificate at {len(DATA[origin])}")

    @pytest.mark.parametrize("line", [4, 5, 6, 7])
    def test_of_a_signature_is_refused(self, ledger, line):
        lines = ledger.note(BOB_LOG).decode().split("\n")
        lines[line] = lines[line].rstrip("=") + "===="
        ledger.set_note(BOB_LOG, "\n".join(lines).encode())
        assert "base64" in ledger.fault().got

    def test_with_bits_after_the_end_is_refused(self):
        assert b64decode("QQ==") == b"A"
        with pytest.raises(CodecInvalid, match="trailing bits"):
            b64decode("QR==")


class TestNonCanonicalInteger:
    """The same number in another spelling, or one that is not exact everywhere."""

    @pytest.mark.parametrize("spelling", b'0500 5e2 500.0 +500 -0 5_00 "500" 9007199254740992'.split())
    def test_in_an_entry_is_refused(self, ledger, spelling):
        log = [DATA[ALICE_LOG][0].replace(b'"amount":500', b'"amount":' + spelling)]
        ledger.forge(ALICE_LOG, log)
        fault = ledger.fault()
        assert (fault.origin, fault.entry) == (ALICE_LOG, 0)
        assert fault.rule == ("amount" if spelling.startswith(b'"') else "encoding")

    @pytest.mark.parametrize("spelling", ["03", "+3", " 3", "3 ", "3.0", "３", "", "9007199254740992"])
    def test_in_a_checkpoint_is_refused(self, ledger, spelling):
        lines = ledger.note(BOB_LOG).decode().split("\n")
        lines[1] = spelling
        ledger.set_note(BOB_LOG, "\n".join(lines).encode())
        assert (ledger.fault().origin, ledger.fault().rule) == (BOB_LOG, "certificate at 3")


class TestOversize:
    """An entry of more than 16 KiB, a note of more than 64 KiB or 64 lines."""

    def test_an_entry_is_refused(self, ledger, replica):
        data = DATA[ALICE_LOG][0].replace(b"hello", b"h" * (codec.MAX_BYTES - len(DATA[ALICE_LOG][0]) + 6))
        assert len(data) == codec.MAX_BYTES + 1
        ledger.forge(ALICE_LOG, [data])
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (ALICE_LOG, 0, "encoding")
        assert "at most 16384" in fault.got
        with pytest.raises(EntryInvalid, match="at most 16384"):
            replica.accept(ALICE_LOG, 0, [data], certificate(ALICE_LOG, [data]))

    @pytest.mark.parametrize("extra", [b"x" * notes.MAX_BYTES, "— other AAAAAAAA\n".encode() * 64])
    def test_a_note_is_refused(self, ledger, extra):
        ledger.set_note(BOB_LOG, ledger.note(BOB_LOG) + extra)
        assert "at most 6" in ledger.fault().got


class TestUnknownType:
    """An entry of a type that the rules do not know."""

    @pytest.mark.parametrize("name", ["burn", "", "Send", "SEND", "begin ", "__class__"])
    def test_is_refused_with_its_entry(self, ledger, replica, name):
        log = [*DATA[ALICE_LOG], codec.encode({**json.loads(DATA[ALICE_LOG][0]), "type": name})]
        ledger.forge(ALICE_LOG, log)
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (ALICE_LOG, 3, "type")
        with pytest.raises(EntryInvalid) as caught:
            replica.accept(ALICE_LOG, 0, log, certificate(ALICE_LOG, log))
        assert caught.value.rule == "type"

    def test_a_known_type_in_the_wrong_log_is_refused(self, ledger):
        ledger.forge(ALICE_LOG, [*DATA[ALICE_LOG], DATA[RUN_LOG][3]])
        assert (ledger.fault().entry, ledger.fault().rule) == (3, "type")


class TestExtraField:
    """An entry with a field too many or too few."""

    @pytest.mark.parametrize("index", range(7))
    def test_is_refused_with_its_entry(self, ledger, index):
        body = json.loads(DATA[RUN_LOG][index])
        ledger.forge(RUN_LOG, [*DATA[RUN_LOG][:index], codec.encode({**body, "zeta": 1}), *DATA[RUN_LOG][index + 1 :]])
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (RUN_LOG, index, f"keys of {body['type']}")

    def test_a_missing_one_is_refused_too(self, ledger):
        body = json.loads(DATA[ALICE_LOG][0])
        del body["memo"]
        ledger.forge(ALICE_LOG, [codec.encode(body)])
        assert ledger.fault().rule == "keys of send"

    def test_a_line_too_many_in_a_checkpoint_is_refused(self, ledger):
        note = notes.Note(text=f"{BOB_LOG}\n3\n{b64encode(bytes(32))}\nextension\n", signatures=())
        with pytest.raises(NoteInvalid, match="3 lines"):
            notes.checkpoint(note)
        signed = notes.parse(head(BOB_LOG, DATA[BOB_LOG]))
        text = signed.text + "extension\n"
        own = notes.Signature(name=BOB_LOG, key_id=signed.signatures[0].key_id, blob=BOB.sign(text.encode()))
        note = notes.Note(text=text, signatures=(own,)).encode()
        whole = notes.combine(note, [notes.cosign(note, name, WITNESSES[name], NOW) for name in ("w0", "w1", "w2")])
        ledger.set_note(BOB_LOG, whole)
        assert "3 lines" in ledger.fault().got
