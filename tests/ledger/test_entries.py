"""Entries: what parses, what is refused, what a receipt's signature covers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import codec, entries
from ledger.entries import Audit, Close, Issue, Open, Receipt, Recv, Seat, Send, Settle
from ledger.errors import CodecInvalid, EntryInvalid, LedgerError, SignatureInvalid

from .world import ALICE, ALICE_LOG, BOB, RUN, SPEC, blob, receipt_of, run_log, spec_of

ONE_OF_EACH = [
    *run_log(1, close=True),
    Send(to=BOB.public, amount=1, memo="é"),
    Issue(to=BOB.public, amount=5),
    Audit(round=1, account=BOB.public, verdict="passed", data={"error": "0.001"}),
]
RECEIPT = receipt_of(ALICE, 1, blob("state"), 0, 10)


@pytest.mark.parametrize("entry", ONE_OF_EACH, ids=lambda entry: entry.type)
def test_an_entry_survives_its_bytes(entry):
    data = entry.encode()
    assert entries.parse(data) == entry
    assert entries.parse(data).encode() == data
    assert entries.from_json(json.loads(data)) == entry


@pytest.mark.parametrize("entry", ONE_OF_EACH, ids=lambda entry: entry.type)
def test_a_missing_an_unknown_and_a_mistyped_field_are_refused(entry):
    body = entry.to_json()
    for name in body:
        with pytest.raises(EntryInvalid):
            entries.from_json({key: value for key, value in body.items() if key != name})
        for wrong in (None, 1.0, True, -1, [], {}, "\u2028" * 300):
            if (entry.type == "audit" and name == "data" and wrong in ([], {})) or body[name] == wrong == []:
                continue
            if entry.type == "settle" and name in ("receipts", "validation") and wrong == []:
                continue
            if entry.type == "audit" and name == "data" and isinstance(wrong, str):
                continue
            with pytest.raises(LedgerError):
                entries.from_json({**body, name: wrong})
    with pytest.raises(EntryInvalid, match="keys"):
        entries.from_json({**body, "extra": 1})


@pytest.mark.parametrize("make", [
    lambda: Send(to="bob", amount=1), lambda: Send(to=BOB.public, amount=0), lambda: Send(to=BOB.public, amount=2**53),
    lambda: Send(to=BOB.public, amount=True), lambda: Send(to=BOB.public, amount=1, memo="x" * 201),
    lambda: Send(to="run/" + BOB.public.upper(), amount=1), lambda: Issue(to=f"run/{RUN}", amount=1),
    lambda: Recv(origin=ALICE_LOG, index=3, size=3, root="ab" * 32),
    lambda: Recv(origin=ALICE_LOG + "\n", index=0, size=1, root="ab" * 32),
    lambda: Recv(origin="p2p-llm-forge/x/y", index=0, size=1, root="ab" * 32),
    lambda: Recv(origin=ALICE_LOG, index=0, size=1, root="AB" * 32),
    lambda: Open(round=0, state=blob(1), roster=(Seat(BOB.public, 0, 1),)),
    lambda: Open(round=1, state=blob(1), roster=()), lambda: Open(round=1, state="x", roster=(Seat(BOB.public, 0, 1),)),
    lambda: Open(round=1, state=blob(1), roster=(Seat(BOB.public, 0, 0),)),
    lambda: Open(round=1, state=blob(1), roster=((BOB.public, 0),)),
    lambda: Settle(round=1, receipts=(2, 1), state=blob(1)), lambda: Settle(round=1, receipts=(1, 1), state=blob(1)),
    lambda: Settle(round=1, receipts=(), state=blob(1), validation=(1,)),
    lambda: Close(state=blob(1)[:-4] + "0100", reason=""), lambda: Close(state=blob(1), reason="x" * 201),
    lambda: receipt_of(ALICE, 1, blob(1), 0, 0), lambda: receipt_of(ALICE, 1, blob(1), 0, 1, leaves="x"),
])  # fmt: skip
def test_values_that_no_entry_may_hold_are_refused(make):
    with pytest.raises(EntryInvalid):
        make()


@pytest.mark.parametrize("changes", [
    {"version": 2}, {"version": True}, {"name": 5}, {"submitter": "x"}, {"leaders": []},
    {"leaders": [ALICE.public] * 2},
    {"leaders": [f"{number:064x}" for number in range(17)]}, {"price": -1}, {"price": 1.5}, {"tokens_per_slot": 0},
    {"slots_per_epoch": 0}, {"rounds": 0}, {"nonce": "0" * 31}, {"config": []}, {"config": {"a": None}}, {"blobs": {}},
    {"blobs": {"model": "x"}},
])  # fmt: skip
def test_specs_that_the_ledger_cannot_rely_on_are_refused(changes):
    with pytest.raises(LedgerError):
        entries.Begin(spec=spec_of(**changes))


def test_a_spec_may_hold_more_than_the_ledger_reads():
    assert entries.Begin(spec=spec_of(more={"x": [1, "2"]})).price == 1000


def test_the_run_id_is_the_hash_of_the_canonical_spec():
    assert entries.run_id(dict(reversed(SPEC.items()))) == RUN
    assert entries.run_id(spec_of(nonce="1" * 32)) != RUN


@pytest.mark.parametrize("data", [b"[]", b"1", b'"send"', b"{}", b'{"type":"nothing"}', b'{"type":[]}', b'{"type":1}'])
def test_what_is_no_entry_is_refused(data):
    with pytest.raises(EntryInvalid):
        entries.parse(data)


def test_an_entry_longer_than_16_kib_is_refused():
    roster = tuple(Seat(f"{number:064x}", number, 1) for number in range(300))
    with pytest.raises(CodecInvalid, match="at most 16384"):
        Open(round=1, state=blob(1), roster=roster).encode()


def test_a_receipt_is_signed_over_all_it_says():
    RECEIPT.verify()
    body = RECEIPT.to_json()
    signature = bytes.fromhex(body.pop("signature"))
    assert ALICE.sign(b"p2p-llm-forge/receipt/v1\n" + codec.encode(body)) == signature


@given(st.integers(0, len(RECEIPT.encode()) - 1), st.integers(1, 255))
def test_a_receipt_with_one_byte_changed_is_refused(at, flip):
    data = RECEIPT.encode()
    with pytest.raises(LedgerError):
        entry = entries.parse(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
        assert isinstance(entry, Receipt)
        entry.verify()


def test_a_receipt_of_another_is_not_mine():
    body = {**RECEIPT.to_json(), "account": BOB.public}
    with pytest.raises(SignatureInvalid, match=BOB.public):
        Receipt.from_json(body).verify()


def test_another_entry_is_not_taken_for_a_receipt():
    with pytest.raises(EntryInvalid):
        Receipt.from_json(Send(to=BOB.public, amount=1).to_json())
