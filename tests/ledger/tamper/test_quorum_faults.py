"""Quorums: cosignatures from elsewhere, twice, too few, of strangers, or of one key under two names."""


import pytest

from ledger import notes
from ledger.entries import Begin, Open, Seat
from ledger.errors import EntryInvalid, GenesisInvalid, NoteInvalid
from ledger.genesis import Genesis
from tests.ledger.world import NOW, key_of, spec_of

from .kit import (
    ALICE,
    BOB,
    BOB_LOG,
    CAROL_LOG,
    DATA,
    DAVE,
    GENESIS,
    LOGS,
    MALLORY,
    MALLORY_LOG,
    QUORUM,
    RUN_LOG,
    WITNESSES,
    cosigned,
    head,
)
from .lines import PLACE, SIZE, line, refused, with_lines


class TestCosignatureMovedToAnotherOrigin:
    """A witness's line for one log under the head of another, or of another size."""

    def test_from_another_log(self, ledger, replica, note):
        moved = notes.cosign(head(BOB_LOG, DATA[BOB_LOG]), "w2", WITNESSES["w2"], NOW)
        certificate = with_lines(cosigned(note, ["w0", "w1"]), moved)
        refused(ledger, replica, certificate, "cosignature of w2", NoteInvalid)

    def test_from_a_log_of_the_same_entries(self, ledger, replica):
        twin = cosigned(head(MALLORY_LOG, DATA[BOB_LOG]))
        lines = [one.line() for one in notes.parse(twin).signatures[1:]]
        certificate = with_lines(head(BOB_LOG, DATA[BOB_LOG]), *lines)
        refused(ledger, replica, certificate, "cosignature of w0", NoteInvalid, BOB_LOG)

    def test_from_another_size_of_the_log(self, ledger, replica, note):
        moved = notes.cosign(head(RUN_LOG, DATA[RUN_LOG], size=SIZE - 1), "w2", WITNESSES["w2"], NOW)
        certificate = with_lines(cosigned(note, ["w0", "w1"]), moved)
        refused(ledger, replica, certificate, "cosignature of w2", NoteInvalid)

    def test_a_whole_certificate_under_another_log(self, ledger):
        ledger.set_note(RUN_LOG, ledger.note(BOB_LOG))
        assert (ledger.fault().origin, ledger.fault().rule) == (RUN_LOG, PLACE)


class TestOneWitnessTwice:
    """Two lines of one witness are one voice."""

    def test_under_its_own_key_id_at_another_time(self, ledger, replica, note):
        more = [line("w0", WITNESSES["w0"], note, NOW + later) for later in (0, 1)]
        certificate = with_lines(cosigned(note, ["w1"]), *more)
        refused(ledger, replica, certificate, "cosigned by w0, w1")

    def test_the_same_line_again(self, ledger, replica, note):
        one = line("w0", WITNESSES["w0"], note)
        refused(ledger, replica, with_lines(cosigned(note, ["w1"]), one, one, one), "cosigned by w0, w1")

    def test_under_another_key_id(self, ledger, replica, note):
        fake = line("w0", WITNESSES["w0"], note, NOW + 1, key_id=b"\x01\x02\x03\x04")
        refused(ledger, replica, with_lines(cosigned(note, ["w0", "w1"]), fake), "cosigned by w0, w1")

    def test_under_another_name(self, ledger, replica, note):
        fake = line("w2", WITNESSES["w0"], note)
        refused(ledger, replica, with_lines(cosigned(note, ["w0", "w1"]), fake), "cosigned by w0, w1")


class TestBelowQuorum:
    """Fewer witnesses than the genesis asks for."""

    @pytest.mark.parametrize("names", [[], ["w0"], ["w3"], ["w0", "w1"], ["w2", "w3"]])
    def test_is_no_certificate(self, ledger, replica, note, names):
        refused(ledger, replica, cosigned(note, names), f"cosigned by {', '.join(names) or 'nobody'}")

    @pytest.mark.parametrize("left", QUORUM)
    def test_one_line_taken_out_of_a_certificate_is_one_too_few(self, ledger, left):
        lines = ledger.note(RUN_LOG).splitlines(keepends=True)
        ledger.set_note(RUN_LOG, b"".join(row for row in lines if f" {left} ".encode() not in row))
        assert "wanted at least 3 witnesses" in str(ledger.fault())

    def test_one_line_taken_out_of_four_is_enough_still(self, ledger):
        lines = ledger.note(CAROL_LOG).splitlines(keepends=True)
        ledger.set_note(CAROL_LOG, b"".join(row for row in lines if b" w3 " not in row))
        ledger.sound()


class TestNonMember:
    """A cosigner that the genesis does not name."""

    @pytest.mark.parametrize("name", ["w4", "stranger", "w2"])
    def test_counts_for_nothing(self, ledger, replica, note, name):
        fake = line(name, MALLORY, note)
        refused(ledger, replica, with_lines(cosigned(note, ["w0", "w1"]), fake), "cosigned by w0, w1")

    def test_many_of_them_count_for_nothing(self, ledger, replica, note):
        fakes = [line(f"w{number}", key_of(f"stranger {number}"), note) for number in range(20)]
        refused(ledger, replica, with_lines(note, *fakes), "cosigned by nobody")

    def test_an_account_is_no_witness(self, ledger, replica, note):
        fakes = [line(key.public, key, note) for key in (ALICE, BOB, DAVE)]
        refused(ledger, replica, with_lines(note, *fakes), "cosigned by nobody")


class TestSameKeyInTwoSlots:
    """One key in two places where two were meant."""

    def test_of_two_witnesses_is_refused_by_the_genesis(self):
        public = WITNESSES["w0"].public
        with pytest.raises(GenesisInvalid, match="named twice"):
            Genesis.create(name="x", witnesses=[*GENESIS.witnesses[:3], ("w3", public)])
        data = GENESIS.encode().replace(WITNESSES["w3"].public.encode(), public.encode())
        with pytest.raises(GenesisInvalid, match="named twice"):
            Genesis.parse(data)

    def test_of_a_witness_and_an_account_is_refused_by_the_genesis(self):
        with pytest.raises(GenesisInvalid, match="make a key for each role"):
            Genesis.create(name="x", witnesses=GENESIS.witnesses, supply={WITNESSES["w0"].public: 1})

    def test_of_two_members_is_refused_with_the_open(self, ledger):
        begin = LOGS[RUN_LOG][0]
        roster = (Seat(BOB.public, 0, 1), Seat(BOB.public, 1, 1))
        ledger.forge(RUN_LOG, [*LOGS[RUN_LOG][:3], Open(round=1, state=begin.state, roster=roster)])
        assert (ledger.fault().entry, ledger.fault().rule) == (3, "roster")

    def test_of_two_leaders_is_refused_with_the_begin(self):
        with pytest.raises(EntryInvalid, match=r"spec\.leaders"):
            Begin(spec=spec_of(leaders=[ALICE.public, ALICE.public]))
