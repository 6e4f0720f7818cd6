"""Runs with stages: their spec, the id of a run's state, and the entries of their rounds, one by one."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import codec, entries, keys
from ledger.describe import entry_facts, entry_line
from ledger.entries import Begin, StageReceipt, StageSeat
from ledger.errors import EntryInvalid, LedgerError, SignatureInvalid
from ledger.stages import MAX_STAGES, bitmap, run_state, worth

from .stage_world import DRIVERS, ENDS, MIDDLE, SHARES, SPEC, opened, receipt, run_log, settled, spec_of, states
from .world import ALICE, BOB, blob
from .world import spec_of as plain_spec

VECTORS = Path(__file__).parents[1] / "vectors" / "run_state.json"
RECEIPT = receipt(ENDS[0], 1, (0, 3))
ONE_OF_EACH = [opened(1), RECEIPT, settled(1, (3, 4))]
each = pytest.mark.parametrize("entry", ONE_OF_EACH, ids=lambda entry: entry.type)


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text())["cases"], ids=lambda case: str(len(case["states"])))
def test_the_id_of_a_runs_state_is_the_root_over_its_stages(case):
    assert run_state(case["states"]) == case["id"]


def test_the_order_of_the_stages_is_in_the_id():
    assert run_state(reversed(states(0))) != run_state(states(0))


def test_a_run_without_stages_says_so():
    assert Begin(spec=plain_spec()).stages is None


def test_a_spec_says_how_its_model_is_cut():
    stages = Begin(spec=spec_of(experts=1)).stages
    assert stages is not None
    assert (stages.shares, stages.states, stages.microbatch, stages.experts) == (SHARES, states(0), 2, 1)
    assert stages.last == 1
    assert Begin(spec=SPEC).stages == replace(stages, experts=0)


@pytest.mark.parametrize(("changes", "rule"), [
    ({"shares": [250_000, 350_000, 400_001]}, "shares"), ({"shares": [250_000, 350_000, 399_999]}, "shares"),
    ({"shares": [250_000, 750_000, 0]}, "shares"), ({"shares": [500_000, 500_000]}, "states"),
    ({"shares": []}, "shares"),
    ({"shares": [0.25, 0.35, 0.4]}, "shares"), ({"shares": 10**6}, "shares"), ({"shares": [True, 999_999]}, "shares"),
    ({"states": list(reversed(states(0)))}, "state"), ({"states": list(states(1))}, "state"),
    ({"states": []}, "states"),
    ({"states": [*states(0), blob("more")]}, "state"), ({"states": ["x", *states(0)[1:]]}, "states"),
    ({"microbatch": 0}, "microbatch"), ({"microbatch": "2"}, "microbatch"), ({"microbatch": ()}, "spec.stages"),
    ({"experts": 3}, "experts"), ({"experts": -1}, "experts"), ({"experts": True}, "experts"),
    ({"more": 1}, "spec.stages"), ({"shares": ()}, "spec.stages"), ({"states": ()}, "spec.stages"),
])  # fmt: skip
def test_stages_that_the_ledger_cannot_rely_on_are_refused(changes, rule):
    with pytest.raises(EntryInvalid) as caught:
        Begin(spec=spec_of(**changes))
    assert rule in caught.value.rule


@pytest.mark.parametrize("stages", [[], 1, "stages", {}])
def test_stages_that_are_no_object_of_theirs_are_refused(stages):
    with pytest.raises(EntryInvalid, match=r"spec\.stages"):
        Begin(spec=plain_spec(stages=stages))


def test_there_may_be_many_stages_and_not_more():
    for count, good in ((MAX_STAGES, True), (MAX_STAGES + 1, False)):
        ids = [blob(number) for number in range(count)]
        spec = spec_of(shares=[10**6 - count + 1, *[1] * (count - 1)], states=ids)
        spec["blobs"] = {**spec["blobs"], "state": run_state(ids)}
        if good:
            assert Begin(spec=spec).encode()
        else:
            with pytest.raises(EntryInvalid, match=f"{count} shares"):
                Begin(spec=spec)


@each
def test_an_entry_survives_its_bytes(entry):
    data = entry.encode()
    assert entries.parse(data) == entry
    assert entries.parse(data).encode() == data
    assert entries.from_json(json.loads(data)) == entry


@each
def test_a_missing_an_unknown_and_a_mistyped_field_are_refused(entry):
    body = entry.to_json()
    for name in body:
        with pytest.raises(EntryInvalid):
            entries.from_json({key: value for key, value in body.items() if key != name})
        for wrong in (None, 1.0, True, -1, [], {}, "\u2028" * 300):
            if wrong == [] and name in ("receipts", "validation"):
                continue
            with pytest.raises(LedgerError):
                entries.from_json({**body, name: wrong})
    with pytest.raises(EntryInvalid, match="keys"):
        entries.from_json({**body, "extra": 1})


SEATS = opened(1).roster


@pytest.mark.parametrize("make", [
    lambda: opened(0), lambda: opened(1, state="x"), lambda: opened(1, roster=()), lambda: opened(1, roster=SEATS[2:]),
    lambda: opened(1, roster=(StageSeat("bob", 0, 2, 0),)), lambda: opened(1, roster=((BOB.public, 0, 2),)),
    lambda: opened(1, roster=(StageSeat(BOB.public, 0, 0, 0),)), lambda: opened(1, roster=((BOB.public, 0, 2, 0.0),)),
    lambda: opened(1, roster=((BOB.public, 0, 2, True), *SEATS)),
    lambda: receipt(ENDS[0], 1, ()), lambda: receipt(ENDS[0], 1, (0,), served="00"),
    lambda: receipt(ENDS[0], 1, (0,), served=""), lambda: receipt(ENDS[0], 1, (0,), served="0G"),
    lambda: receipt(ENDS[0], 1, (0,), served="0A"), lambda: receipt(ENDS[0], 1, (0,), served="0x1"),
    lambda: receipt(ENDS[0], 1, (0,), served="1\n"), lambda: receipt(ENDS[0], 1, (0,), served=" 1"),
    lambda: receipt(ENDS[0], 1, (0,), served=1), lambda: receipt(ENDS[0], 1, (0,), served="٠١"),
    lambda: receipt(ENDS[0], 1, (0,), stage="2"), lambda: receipt(ENDS[0], 1, (0,), slots=(0, 0)),
    lambda: receipt(ENDS[0], 1, (0,), tokens=0), lambda: receipt(ENDS[0], 1, (0,), leaves="x"),
    lambda: receipt(ENDS[0], 1, (0,), update="x"),
    lambda: settled(1, (4, 3)), lambda: settled(1, (3, 3)), lambda: settled(1, (), validation=(1,)),
    lambda: settled(1, (), states=()), lambda: settled(1, (), states=("x",)),
    lambda: settled(1, (), state=run_state(states(2))), lambda: settled(1, (), states=states(2)),
    lambda: settled(1, (), states=tuple(reversed(states(1)))), lambda: settled(1, (), states=states(1)[:2]),
])  # fmt: skip
def test_values_that_no_entry_may_hold_are_refused(make):
    with pytest.raises(EntryInvalid):
        make()


def test_a_receipt_is_signed_over_all_it_says():
    RECEIPT.verify()
    body = RECEIPT.to_json()
    signature = bytes.fromhex(body.pop("signature"))
    assert ENDS[0].sign(b"p2p-llm-forge/stage-receipt/v1\n" + codec.encode(body)) == signature
    with pytest.raises(SignatureInvalid):  # one kind of receipt is never taken for the other
        keys.verify(RECEIPT.account, b"p2p-llm-forge/receipt/v1\n" + codec.encode(body), signature)


@given(st.integers(0, len(RECEIPT.encode()) - 1), st.integers(1, 255))
def test_a_receipt_with_one_byte_changed_is_refused(at, flip):
    data = RECEIPT.encode()
    with pytest.raises(LedgerError):
        entry = entries.parse(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
        assert isinstance(entry, StageReceipt)
        entry.verify()


@pytest.mark.parametrize("changes", [
    {"stage": 1}, {"served": "0a"}, {"tokens": 1}, {"loss": 1}, {"slots": (0, 2)}, {"account": ALICE.public},
    {"network": "00" * 32}, {"run": "00" * 32}, {"round": 2}, {"state_in": blob(1)}, {"update": blob(1)},
    {"leaves": "00" * 32},
])  # fmt: skip
def test_a_receipt_with_another_value_does_not_verify(changes):
    with pytest.raises(SignatureInvalid):
        replace(RECEIPT, **changes).verify()


def test_a_bitmap_has_a_digit_for_every_four_microbatches():
    assert [bitmap((0,), count) for count in (1, 4, 5, 8, 9)] == ["1", "1", "01", "01", "001"]
    assert bitmap((0, 1, 2, 3, 4), 5) == "1f"
    assert replace(RECEIPT, served=bitmap((2, 7), 9)).bits == 0b10000100


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=20).map(sorted), st.integers(0, 10**7), st.integers(1, 10**4),
    st.lists(st.lists(st.integers(0, 30), unique=True, max_size=8), min_size=20, max_size=20),
)  # fmt: skip
def test_the_stages_together_earn_what_the_whole_model_would_but_for_rounding(edges, price, per_microbatch, cuts):
    bounds = [0, *sorted({edge for edge in edges if edge < 10**6}), 10**6]
    shares = [after - before for before, after in pairwise(bounds)]
    total, earned, receipts = 30, 0, 0
    for share, cut in zip(shares, cuts, strict=False):  # the microbatches of each stage, split among its replicas
        parts = [after - before for before, after in pairwise([0, *sorted(cut), total]) if after > before]
        receipts += len(parts)
        earned += sum(worth(part * per_microbatch, price, share) for part in parts)
    whole = worth(total * per_microbatch, price)
    if len(shares) <= len(cuts):
        assert whole - receipts < earned <= whole
    assert worth(per_microbatch, price) == per_microbatch * price // 10**6


def test_entries_are_told_in_words():
    lines = [entry_line(entry) for entry in run_log(1)[2:]]
    assert lines[0].startswith("open round 1: stage 0 ")
    assert lines[0].count("×") == 2
    assert lines[0].count("; stage ") == 2
    assert lines[1].endswith("for round 1: 8000 tokens in stage 0")
    assert lines[5].endswith("for round 1: 12000 tokens in stage 2, loss 3.0000")
    assert lines[6].startswith("settle round 1: 5 receipts, state ")
    facts = dict(entry_facts(receipt(MIDDLE[0], 1, (0, 1, 2, 5))))
    assert (facts["stage"], facts["served"]) == ("1", "4 microbatches: 0-2, 5")
    assert facts["work"] == "8000 tokens, 8 slots out of those from 0 on"
    assert dict(entry_facts(receipt(DRIVERS[0], 1, (3,))))["served"] == "1 microbatch: 3"
    assert "loss" not in facts
