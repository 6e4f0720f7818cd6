"""Keys: signatures by nobody, by the wrong one, for something else, or by too few."""

from hashlib import sha256

import pytest

from ledger import keys, notes
from ledger.entries import Begin, Open, Receipt, Seat, Send, run_id
from ledger.errors import EntryInvalid, GenesisInvalid, KeyInvalid, NoteInvalid, QuorumMissing
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.notes import Checkpoint, Note, Signature
from tests.ledger.test_keys import MIXED_ORDER, SMALL_ORDER
from tests.ledger.world import NOW, spec_of

from .kit import (
    ALICE,
    ALICE_LOG,
    BOB,
    CAROL_LOG,
    DATA,
    DAVE,
    GENESIS,
    LOGS,
    MALLORY,
    RUN_LOG,
    WITNESSES,
    cosigned,
    head,
    receipt,
)
from .lines import line, refused, with_lines


class TestForgedSignature:
    """A signature that its key never made."""

    def test_of_the_owner(self, ledger, replica):
        forged = notes.parse(head(RUN_LOG, DATA[RUN_LOG], MALLORY))
        key_id = notes.log_key_id(RUN_LOG, ALICE.public)
        lines = (Signature(name=RUN_LOG, key_id=key_id, blob=forged.signatures[0].blob),)
        certificate = cosigned(Note(text=forged.text, signatures=lines).encode())
        refused(ledger, replica, certificate, "does not verify", NoteInvalid)

    def test_of_a_witness(self, ledger, replica, note):
        key_id = notes.witness_key_id("w2", WITNESSES["w2"].public)
        certificate = with_lines(cosigned(note, ["w0", "w1"]), line("w2", MALLORY, note, key_id=key_id))
        refused(ledger, replica, certificate, "cosignature of w2", NoteInvalid)

    def test_of_a_member(self, ledger, replica):
        good = LOGS[RUN_LOG][5]
        forged = Receipt(**{**vars(good), "signature": receipt(MALLORY, 1, 10, 8).signature})
        log = [*LOGS[RUN_LOG][:5], forged, *LOGS[RUN_LOG][6:]]
        ledger.forge(RUN_LOG, log)
        assert (ledger.fault().entry, ledger.fault().rule) == (5, "signature")
        with pytest.raises(EntryInvalid, match="entry 5: signature"):
            replica.accept(RUN_LOG, 0, [entry.encode() for entry in log], cosigned(head(RUN_LOG, log)))


class TestForeignKey:
    """A sound signature by somebody who has no say here."""

    @pytest.mark.parametrize("key", [MALLORY, BOB])
    def test_a_stranger_or_a_mere_member_signs_the_runs_head(self, ledger, replica, key):
        certificate = cosigned(head(RUN_LOG, DATA[RUN_LOG], key))
        refused(ledger, replica, certificate, "not signed by any", NoteInvalid)

    def test_somebody_else_signs_an_accounts_head(self, ledger, replica):
        certificate = cosigned(head(CAROL_LOG, DATA[CAROL_LOG], ALICE))
        refused(ledger, replica, certificate, "not signed by any", NoteInvalid, CAROL_LOG)

    def test_somebody_else_does_not_even_get_to_append(self, replica):
        with pytest.raises(KeyInvalid, match="may not write"):
            replica.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], MALLORY)

    def test_any_leader_may_sign(self, ledger):
        for table in ("certificate", "head", "promise"):
            ledger.set_note(RUN_LOG, cosigned(head(RUN_LOG, DATA[RUN_LOG], DAVE)), table)
        ledger.sound()


class TestSmallOrMixedOrderKey:
    """A key under which one signature fits many messages, or about which verifiers disagree."""

    IDENTITY = "01" + "00" * 31
    BASE_POINT = "58" + "66" * 31
    ANY = bytes.fromhex(BASE_POINT + "01" + "00" * 31)

    def test_as_an_account_it_cannot_write_although_its_signature_verifies(self, ledger, replica):
        keys.verify(self.IDENTITY, b"anything", self.ANY)
        keys.verify(self.IDENTITY, b"anything else", self.ANY)
        origin, log = GENESIS.origin(self.IDENTITY), [Send(to=BOB.public, amount=1)]
        unsigned = notes.parse(head(origin, log, MALLORY))
        lines = (Signature(name=origin, key_id=notes.log_key_id(origin, self.IDENTITY), blob=self.ANY),)
        note = Note(text=unsigned.text, signatures=lines).encode()
        assert notes.verify_head(notes.parse(note), [self.IDENTITY]) == self.IDENTITY
        ledger.forge(origin, log, cosigned(note))
        fault = ledger.fault()
        assert (fault.origin, fault.entry, fault.rule) == (origin, 0, "key")
        with pytest.raises(EntryInvalid, match="entry 0: key"):
            replica.accept(origin, 0, [entry.encode() for entry in log], cosigned(note))

    @pytest.mark.parametrize("public", [*SMALL_ORDER, MIXED_ORDER])
    def test_as_an_account_a_member_or_a_leader_it_is_named_with_its_entry(self, ledger, replica, public):
        origin, log = GENESIS.origin(public), [Send(to=BOB.public, amount=1).encode()]
        with pytest.raises((EntryInvalid, NoteInvalid)):  # whichever is looked at first
            replica.accept(origin, 0, log, cosigned(head(origin, log, MALLORY)))
        rest = LOGS[RUN_LOG][:3]
        ledger.forge(RUN_LOG, [*rest, Open(round=1, state=rest[0].state, roster=(Seat(public, 0, 1),))])
        assert (ledger.fault().entry, ledger.fault().rule) == (3, "key")
        spec = spec_of(leaders=[public])
        with pytest.raises(EntryInvalid, match="entry 0: key"):
            replica.append(GENESIS.run_origin(run_id(spec)), [Begin(spec=spec)], MALLORY)

    @pytest.mark.parametrize("public", [*SMALL_ORDER, MIXED_ORDER])
    def test_in_a_genesis_it_is_refused(self, public):
        four = GENESIS.witnesses
        for change in ({"supply": {public: 1}}, {"issuers": {public: 1}}, {"witnesses": [*four[:3], ("w3", public)]}):
            with pytest.raises(GenesisInvalid):
                Genesis.create(**{"name": "x", "witnesses": four, **change})


class TestKeyIdCollision:
    """Two keys whose ids of four bytes are the same."""

    NAME = "example.org/collision"
    # Found by search: under this name both have the id d3743d1f.
    ONE, OTHER = (PrivateKey(sha256(f"collision {number}".encode()).digest()) for number in (1575, 2251))

    def test_they_do_collide(self):
        ids = {notes.log_key_id(self.NAME, key.public).hex() for key in (self.ONE, self.OTHER)}
        assert ids == {"d3743d1f"}

    @pytest.mark.parametrize("writers", [[ONE, OTHER], [OTHER, ONE]])
    def test_each_of_two_writers_is_told_by_its_signature(self, writers):
        place = Checkpoint(origin=self.NAME, size=1, root=bytes(32))
        for key in writers:
            note = notes.parse(notes.sign_head(place, key))
            assert notes.verify_head(note, [writer.public for writer in writers]) == key.public

    def test_a_stranger_with_the_writers_id_is_refused(self):
        place = Checkpoint(origin=self.NAME, size=1, root=bytes(32))
        note = notes.parse(notes.sign_head(place, self.OTHER))
        with pytest.raises(NoteInvalid, match="does not verify"):
            notes.verify_head(note, [self.ONE.public])
        with pytest.raises(NoteInvalid, match="does not verify"):
            notes.verify_head(note, [self.ONE.public, ALICE.public])

    def test_where_all_ids_are_the_same_only_signatures_count(self, ledger, replica, note, monkeypatch):
        monkeypatch.setattr(notes, "log_key_id", lambda name, public: b"same")
        monkeypatch.setattr(notes, "witness_key_id", lambda name, public: b"same")
        replica.accept(RUN_LOG, 0, DATA[RUN_LOG], cosigned(head(RUN_LOG, DATA[RUN_LOG], DAVE)))
        forged = with_lines(cosigned(head(RUN_LOG, DATA[RUN_LOG]), ["w0", "w1"]), line("w2", MALLORY, note))
        with pytest.raises(NoteInvalid, match="cosignature of w2"):
            replica.accept(RUN_LOG, 0, DATA[RUN_LOG], forged)
        with pytest.raises(NoteInvalid, match="does not verify"):
            notes.verify_head(notes.parse(head(RUN_LOG, DATA[RUN_LOG], MALLORY)), [ALICE.public, DAVE.public])


class TestAlgorithmByteSwap:
    """A log key used as a cosigner's, a cosigner's as a log's."""

    def test_a_witnesss_plain_signature_is_no_cosignature(self, ledger, replica, note):
        key = WITNESSES["w2"]
        text = notes.parse(note).text
        signed = key.sign(text.encode())
        for key_id in (notes.log_key_id("w2", key.public), notes.witness_key_id("w2", key.public)):
            for blob in (signed, NOW.to_bytes(8, "big") + signed):
                fake = Signature(name="w2", key_id=key_id, blob=blob).line()
                certificate = with_lines(cosigned(note, ["w0", "w1"]), fake)
                named = key_id == notes.witness_key_id("w2", key.public)
                match, error = ("cosignature of w2", NoteInvalid) if named else ("cosigned by w0, w1", QuorumMissing)
                refused(ledger, replica, certificate, match, error)

    def test_an_owners_cosignature_is_no_head(self, ledger, replica, note):
        text = notes.parse(note).text
        blob = notes.parse(note + line(RUN_LOG, ALICE, note)).signatures[-1].blob
        for key_id in (notes.witness_key_id(RUN_LOG, ALICE.public), notes.log_key_id(RUN_LOG, ALICE.public)):
            fake = Note(text=text, signatures=(Signature(name=RUN_LOG, key_id=key_id, blob=blob),)).encode()
            match = "does not verify" if key_id == notes.log_key_id(RUN_LOG, ALICE.public) else "not signed by any"
            refused(ledger, replica, cosigned(fake), match, NoteInvalid)

    def test_the_id_covers_the_algorithm(self):
        for name, key in WITNESSES.items():
            assert notes.log_key_id(name, key.public) != notes.witness_key_id(name, key.public)
