"""What daemons say of stages: everything comes back as it went, and what no honest peer sends is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.entries import StageReceipt
from ledger.errors import LedgerError
from ledger.keys import PrivateKey
from peer.errors import MessageInvalid, Refused
from peer.rounds.log import OpenRound, Seat
from peer.runs.staged.bodies import PassBody, RefusalText
from peer.runs.staged.messages import ORDERS, Standing, on_the_wire, receipt_of
from peer.runs.staged.parcels import KEPT_S, MOST_PARCELS, Parcels, parts_of
from peer.runs.staged.records import Records
from peer.stages.messages import Assign, Attempt, Cut, Freeze, Halt, Losses, Refusal, Status
from peer.wire import PAYLOAD_LIMIT

RUN, KEY = "ab" * 32, PrivateKey.generate()
OTHERS = ["11" * 32, "22" * 32, "33" * 32]
STATE = "cd" * 32 + "-100"
ROUND = OpenRound(
    round=3, state=STATE, index=7,
    roster=(
        Seat(account=KEY.public, start=0, quota=8, stage=0),
        *(Seat(account=account, start=0, quota=8, stage=1 + place % 2) for place, account in enumerate(OTHERS)),
    ),
)  # fmt: skip
RECEIPT = StageReceipt.create(
    network="ef" * 32, run=RUN, round=3, stage=0, state_in=STATE, update="aa" * 32 + "-10", slots=(0, 4), served="3",
    tokens=64, loss=0, leaves="bb" * 32, key=KEY,
)  # fmt: skip

attempts = st.builds(Attempt, st.integers(0, 1000), st.sampled_from(["", KEY.public, f"{KEY.public}/17"]))
statuses = st.builds(
    Status, account=st.just(KEY.public), life=st.integers(0, 99), seq=st.integers(0, 99), stage=st.integers(-1, 5),
    state=st.sampled_from(["", STATE]), memory_bytes=st.integers(0, 1 << 40),
    microbatch_s=st.integers(0, 10_000_000).map(lambda us: us / 1e6), round=st.just(3), finished=st.booleans(),
    halted=attempts, losses=attempts, frozen=attempts, lacking=st.sampled_from(["", "0", "f0"]),
    table=st.sampled_from([(), ((0, (OTHERS[0], OTHERS[1])), (3, (OTHERS[2], OTHERS[1])))]),
    receipt=st.sampled_from([None, RECEIPT]), cut=st.sampled_from([(), (RECEIPT, RECEIPT)]),
    norm=st.sampled_from(["", "3ff0000000000000"]), armed=st.booleans(), applied=st.sampled_from(["", STATE]),
)  # fmt: skip


@given(statuses)
def test_a_status_comes_back_as_it_went(status: Status) -> None:
    body = Standing.of(RUN, status, ROUND, queue=3, busy=0.5).body()
    read = Standing.read(body)
    assert read.status(KEY.public, ROUND) == status
    assert (read.queue, read.busy) == (3, 500)


def test_a_table_of_another_round_is_left_out() -> None:
    status = Status(account=KEY.public, life=1, seq=1, round=3, table=((0, (OTHERS[0], OTHERS[1])),))
    nobody = OpenRound(round=4, state=STATE, index=9, roster=ROUND.roster[:1])
    assert Standing.of(RUN, status, nobody).table == []
    assert Standing.of(RUN, status, ROUND).status(KEY.public, nobody).table == ()


def test_a_place_beyond_the_roster_is_refused() -> None:
    told = Standing.of(RUN, Status(account=KEY.public, life=1, seq=1, round=3), ROUND).body() | {"table": [[0, 9, 1]]}
    with pytest.raises(MessageInvalid, match="beyond the 4"):
        Standing.read(told).status(KEY.public, ROUND)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stage", 128), ("stage", -2), ("norm", "3FF0000000000000"), ("finished", 2), ("lacking", "xyz"),
        ("table", [[0]]), ("halted", {"number": 1, "leader": "me"}), ("applied", "none"), ("busy", 1001), ("more", 1),
    ],
)  # fmt: skip
def test_a_field_that_no_honest_member_sends_is_refused(field: str, value: Any) -> None:
    told = Standing.of(RUN, Status(account=KEY.public, life=1, seq=1, round=3), ROUND).body() | {field: value}
    with pytest.raises(MessageInvalid, match=field):
        Standing.read(told)


def test_a_receipt_of_another_kind_or_damaged_is_refused() -> None:
    with pytest.raises(LedgerError):
        receipt_of("{}")
    with pytest.raises(MessageInvalid, match="wanted a stage_receipt"):
        receipt_of('{"amount":1,"memo":"","to":"' + "ab" * 32 + '","type":"send"}')


@pytest.mark.parametrize(
    "order",
    [
        Assign(stage=2),
        Losses(round=3, leader=f"{KEY.public}/2", accounts=(OTHERS[0], OTHERS[0])),
        Halt(round=3, attempt=Attempt(2, f"{KEY.public}/1"), gaps=((1, 0), (2, 3)), gone=(OTHERS[1],)),
        Freeze(round=3, attempt=Attempt(2, f"{KEY.public}/1"), manifest="0f"),
        Cut(round=3, attempt=Attempt(2, f"{KEY.public}/1"), receipts=(RECEIPT,), norms=("3ff0000000000000",)),
    ],
)
def test_an_order_comes_back_as_it_went(order: Any) -> None:
    method, body = on_the_wire(RUN, order)
    kind = ORDERS[method.removeprefix("stage.")]
    assert kind.read(body.body()).order() == order
    with pytest.raises(MessageInvalid):
        kind.read(body.body() | {"more": 1})


@pytest.mark.parametrize("code", ["STALE", "BUSY", "WORKING", "FROZEN", "FP-452"])
def test_a_refusal_comes_back_as_it_went(code: str) -> None:
    refusal = Refusal(code=code, wait_s=0.25, round=3, state=STATE)
    assert RefusalText.read(RefusalText.of(refusal, "x" * 1000).body()).refusal() == refusal


def test_a_pass_names_its_kind() -> None:
    with pytest.raises(MessageInvalid, match="kind"):
        PassBody.read({
            "run": RUN, "call": "0" * 32, "round": 1, "state": STATE, "stage": 1, "microbatch": 0, "kind": "sideways",
            "attempt": {"number": 0, "leader": ""}, "tokens": 1, "x": 0, "gradient": 0, "sum": "0" * 32,
        })  # fmt: skip


# ---------------------------------------------------------------- parcels


def test_a_parcel_is_gathered_in_any_order_and_taken_once() -> None:
    parcels, data = Parcels(), bytes(range(256)) * 5000  # two parts
    parts = [data[:PAYLOAD_LIMIT], data[PAYLOAD_LIMIT:]]
    for index in (1, 0):
        parcels.put(("a", "1"), index, parts[index], len(data), most_bytes=1 << 24, now=0.0)
    assert parts_of(len(data)) == 2
    assert parcels.take(("a", "1"), len(data)) == data
    with pytest.raises(Refused, match="0 of 2 parts"):
        parcels.take(("a", "1"), len(data))


def test_a_part_that_is_none_is_refused() -> None:
    parcels, total = Parcels(), PAYLOAD_LIMIT + 5
    parcels.put(("a", "1"), 1, b"12345", total, most_bytes=1 << 24, now=0.0)
    for index, data, size in ((1, b"12345", total), (2, b"", total), (0, b"1", total), (0, b"1", 1)):
        with pytest.raises(Refused, match="FP-455"):
            parcels.put(("a", "1"), index, data, size, most_bytes=1 << 24, now=0.0)
    with pytest.raises(Refused, match="1 of 2 parts"):
        parcels.take(("a", "1"), total)


def test_a_caller_has_a_budget_and_what_is_late_is_dropped() -> None:
    parcels = Parcels()
    parcels.put(("a", "1"), 0, b"x" * 600, 600, most_bytes=1000, now=0.0)
    with pytest.raises(Refused, match="600 bytes of yours are here, 600 more do not fit"):
        parcels.put(("a", "2"), 0, b"x" * 600, 600, most_bytes=1000, now=1.0)
    parcels.put(("b", "1"), 0, b"x" * 600, 600, most_bytes=1000, now=1.0)
    parcels.put(("a", "2"), 0, b"x" * 600, 600, most_bytes=1000, now=KEPT_S)
    with pytest.raises(Refused):
        parcels.take(("a", "1"), 600)


def test_a_caller_has_a_number_of_parcels() -> None:
    parcels = Parcels()
    for number in range(MOST_PARCELS):
        parcels.put(("a", str(number)), 0, b"x", 1, most_bytes=1000, now=0.0)
    with pytest.raises(Refused, match=f"{MOST_PARCELS} parcels"):
        parcels.put(("a", "more"), 0, b"x", 1, most_bytes=1000, now=0.0)


def test_what_is_handed_out_is_gone_after_its_last_part() -> None:
    parcels, data = Parcels(), b"x" * (2 * PAYLOAD_LIMIT + 1)
    parcels.keep(("a", "1"), data, now=0.0)
    assert parcels.part(("a", "1"), 2) == b"x"
    assert len(parcels.part(("a", "1"), 1)) == PAYLOAD_LIMIT
    with pytest.raises(Refused, match="part 1 is not here"):
        parcels.part(("a", "1"), 1)


# ---------------------------------------------------------------- records


async def test_records_beyond_memory_go_to_disk_and_all_go_with_the_round(tmp_path: Path) -> None:
    records = Records(tmp_path / "records", memory_bytes=10)
    await records.begin(1)
    await records.put("1", b"12345678")
    await records.put("2", b"87654321")
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["2"]
    assert (await records.get("1"), await records.get("2"), await records.get("3")) == (b"12345678", b"87654321", None)
    await records.begin(1)
    assert await records.get("2") == b"87654321"
    await records.begin(2)
    assert (await records.get("1"), await records.get("2")) == (None, None)
