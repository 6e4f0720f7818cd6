"""A run's events become rows, notes and lines that a person can read.

Pure: values only.
"""

from hypothesis import given
from hypothesis import strategies as st

from peer.cli.view import RunView, credits, pause_end, size
from tests.peer.gateway_fake import EVENTS, ME


def seen(*events: dict[str, object]) -> RunView:
    view = RunView(names={ME: "Ada"})
    for event in events:
        view = view.after(event)
    return view


def test_a_whole_run_is_folded_into_its_rows() -> None:
    view = seen(*EVENTS)
    assert (view.name, view.closed, view.open_round) == ("tiny", "finished", 0)
    assert [row.cells() for row in view.rows] == [("1", "3.2500", "3.5000", "1", "320", "0.000012", "2.0")]


def test_an_open_round_counts_its_receipts() -> None:
    view = seen(*EVENTS[:3])
    assert (view.open_round, view.receipts, view.members) == (1, 1, (ME,))


def test_a_pause_and_its_end_are_told() -> None:
    events = [{"event": "paused", "until": None}, {"event": "resumed"}]
    assert seen(*events).notes == ("this peer does not train until it is resumed", "this peer trains again")
    assert pause_end({"until": 86_400.0 * 365.25 * 30}).startswith(("until 1999-12-31 ", "until 2000-01-01 "))


def test_joins_and_drops_are_notes_with_names() -> None:
    events = [
        {"event": "joined", "round": 3, "account": ME},
        {"event": "dropped", "round": 5, "account": ME, "reason": "no heartbeat"},
        {"event": "rejoined", "round": 7, "account": "ab" * 32},
        {"event": "refused", "round": 8, "account": ME, "code": "FP-411", "reason": "wrong round"},
        {"event": "caught_up", "round": 9, "by": "replay", "seconds": 1.25},
        {"event": "restored", "round": 10, "residual": 8, "optimizer": 7},
        {"event": "not_carried", "round": 11, "reason": "not kept: the disk is full"},
        {"event": "thrown_away", "round": 11, "slots": 8, "reason": "the run is closed"},
        {"event": "late", "round": 12, "account": ME, "quota": 24},
        {"event": "benched", "account": ME, "until": 14, "reason": "dropped again and again"},
        {"event": "uncertified", "round": 15, "rounds": 2, "since": 1.0},
        {"event": "certified_again", "round": 15, "seconds": 7.25},
        {"event": "rolled_back", "round": 13, "lost": 2},
        {"event": "omitted", "round": 15, "account": ME, "code": "FP-435", "reason": "no reason given"},
        {"event": "flood", "account": "", "peer": "12D3KooWabc", "code": "FP-305", "reason": "too many"},
        {"event": "left", "account": ME, "reason": "no use for us"},
        {"event": "cannot_take_part", "code": "FP-438", "reason": "too old"},
    ]
    assert seen(*events).notes == (
        "round 3: Ada joined",
        "round 5: Ada dropped: no heartbeat",
        "round 7: abababab is back",
        "round 8: Ada refused: FP-411 wrong round",
        "round 9: caught up by replay in 1.2 s",
        "round 10: went on with residual of round 8 and optimizer of round 7 of before the restart",
        "round 11: not kept: the disk is full",
        "round 11: 8 samples trained ahead do not count: the run is closed",
        "round 12: Ada was too slow for 24 samples, gets fewer",
        "Ada pauses until round 14: dropped again and again",
        "round 15: too few witnesses sign: 2 rounds are open and not certified",
        "round 15: certified again after 7.2 s",
        "round 13: went back to it, 2 later rounds were never certified",
        "round 15: Ada omitted: FP-435 no reason given",
        "12D3KooW flood: FP-305 too many",
        "Ada left: no use for us",
        "cannot take part: FP-438 too old",
    )


def test_an_event_of_a_later_version_is_shown_by_its_name() -> None:
    assert RunView().line({"event": "lease_lost", "round": 4}) == "round 4: lease lost"


def test_a_falling_loss_falls_in_the_sparkline() -> None:
    settled = [{"event": "settled", "round": i, "loss": 5.0 - i} for i in range(1, 5)]
    assert seen(*settled).sparkline() == "█▆▃▁"
    assert seen(settled[0]).sparkline() == "▁"
    assert RunView().sparkline() == ""


@given(st.integers(0, 10**18))
def test_no_micro_credit_is_lost_in_print(amount: int) -> None:
    whole, part = credits(amount).split(".")
    assert int(whole) * 1_000_000 + int(part) == amount
    assert len(part) == 6


def test_sizes_have_fitting_units() -> None:
    assert [size(n) for n in (5, 2048, 3 << 20, 5 << 40)] == ["5 B", "2.0 KiB", "3.0 MiB", "5.0 TiB"]
