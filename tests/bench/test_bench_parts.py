"""The pure parts of the benchmarks: what they make of journals, of bursts and of states."""

from pathlib import Path
from typing import Any

import agreement
import bytes as upload
import cluster
import efficiency
import ledger_bench
import ledger_certify
import pytest
import recovery
import rivals
import round_overhead
import stalls
import throttle
import vs_ddp

from peer.demo.peers import DemoFailed

Event = dict[str, Any]


def journal(*events: tuple[str, int, float], **more: Any) -> list[Event]:
    return [{"event": name, "round": number, "time": time, **more} for name, number, time in events]


def test_a_members_speed_is_its_tokens_over_the_time_from_training_to_delivered() -> None:
    events = journal(("training", 1, 0.0), ("training", 2, 10.0), ("training", 3, 20.0))
    events += journal(("delivered", 1, 9.0), ("delivered", 2, 14.0), ("delivered", 3, 22.0), tokens=1000)
    assert efficiency.member_speeds(events) == [250.0, 500.0]


def test_a_runs_speed_counts_what_lies_between_its_rounds() -> None:
    events = journal(("settled", 1, 5.0), ("settled", 2, 10.0), ("settled", 3, 25.0), tokens=1000)
    assert efficiency.run_speed(events) == 100.0


def test_each_run_is_compared_with_the_bursts_beside_it() -> None:
    bursts = {"passive": [90.0, 110.0, 190.0, 210.0, 100.0, 100.0], "active": [50.0] * 6}
    found = efficiency.compare(members=[95.0, 196.0, 99.0], runs=[90.0, 180.0, 90.0], bursts=bursts)
    assert found["ratios"] == [0.95, 0.98, 0.99]
    assert (found["ratio"], found["ratio_lowest"], found["ratio_highest"]) == (0.98, 0.95, 0.99)
    assert found["ratio_with_gaps"] == 0.9
    assert found["plain_policy"] == "passive"


def test_the_faster_plain_loop_counts() -> None:
    found = efficiency.compare(
        members=[100.0], runs=[100.0], bursts={"passive": [80.0, 80.0], "active": [125.0, 125.0]}
    )
    assert (found["plain_policy"], found["ratio"]) == ("active", 0.8)


def three_members(number: int) -> tuple[list[Event], list[list[Event]]]:
    """The leader's journal and everybody's, of the gap after a round; the third member is last at both ends."""
    after = number + 1
    leader = journal(("delivered", number, 10.0), ("opened", after, 10.30), ("training", after, 10.31))
    timing = {"fetch_and_decode": 0.02, "apply_decode": 0.01, "apply_aggregate": 0.02, "apply_outer": 0.01,
              "apply_hash": 0.03, "apply_write": 0.02, "apply": 0.10, "append": 0.04}  # fmt: skip
    leader += journal(("timing", number, 10.30), **timing)
    second = journal(("delivered", number, 9.0), ("opened", after, 10.32), ("training", after, 10.40))
    third = journal(("delivered", number, 10.1), ("opened", after, 10.35), ("training", after, 10.50))
    return leader, [leader, second, third]


def test_a_gap_reaches_from_the_last_receipt_to_the_last_start_and_its_parts_fill_it() -> None:
    leader, homes = three_members(5)
    gap = round_overhead.gaps(leader, homes)[0]
    assert gap["total"] == pytest.approx(0.4)
    assert gap["go_on"] == pytest.approx(0.2)
    assert gap["apply_call"] == pytest.approx(0.01)
    assert gap["receipt_and_cut"] == pytest.approx(0.2 - 0.02 - 0.10 - 0.04)
    assert sum(value for name, value in gap.items() if name != "total") == pytest.approx(gap["total"])


def test_gaps_of_the_warm_up_and_of_absent_members_do_not_count() -> None:
    early, homes = three_members(round_overhead.SKIPPED)
    assert round_overhead.gaps(early, homes) == []
    leader, homes = three_members(5)
    homes[2] = [event for event in homes[2] if event["event"] != "delivered"]
    assert round_overhead.gaps(leader, homes) == []


def test_the_summary_compares_the_median_with_an_apply_and_the_log() -> None:
    leader, homes = three_members(5)
    alone = {"apply": [9.0, 9.0, 0.04, 0.04], "append": [9.0, 9.0, 0.015], "cosign": [9.0, 9.0, 0.005]}
    found = round_overhead.summary(round_overhead.gaps(leader, homes), alone)
    assert found["p50_s"] == pytest.approx(0.4)
    assert found["floor_s"] == pytest.approx(0.06)
    assert found["over_floor"] == pytest.approx(6.67)
    assert (found["append_alone_s"], found["cosign_alone_s"]) == (0.015, 0.005)
    assert found["gaps"] == len(found["totals_s"]) == 1


def test_a_computed_state_that_the_log_does_not_have_is_astray() -> None:
    log = ["aa-100", "bb-100", "cc-100"]
    assert agreement.astray({"aa", "cc"}, log) == []
    assert agreement.astray({"aa", "dd", "ee"}, log) == ["dd", "ee"]


def test_a_replay_differs_where_a_state_differs_or_is_missing() -> None:
    assert agreement.differing(["a", "b", "c"], ["a", "b", "c"]) == 0
    assert agreement.differing(["a", "x", "c"], ["a", "b", "c"]) == 1
    assert agreement.differing(["a"], ["a", "b", "c"]) == 2
    assert agreement.differing([], ["a", "b"]) == 2


def test_the_floor_of_a_certificate_is_three_commits_then_a_quorums_and_a_round_trip() -> None:
    probes = {"fsync": [9.0, 0.001, 0.001], "fsync_quorum": [0.002], "round_trip": [0.004, 0.005, 0.006]}
    found = ledger_certify.summary([0.03, 0.02, 0.04], 1234.56, probes)
    assert found["certify_floor_ms"] == 10.0
    assert (found["certify_p50_ms"], found["certify_over_floor"], found["certified_per_s"]) == (30.0, 3.0, 1234.6)
    assert set(ledger_certify.TARGETS) < set(found)


def test_a_targets_share_is_below_one_when_it_is_met_whichever_way_it_points() -> None:
    targets = {"small": ("<=", 10.0), "large": (">=", 10.0)}
    assert ledger_bench.shares({"small": 5, "large": 20}, targets) == {"small": 0.5, "large": 0.5}
    assert ledger_bench.shares({"small": 20, "large": 5}, targets) == {"small": 2.0, "large": 2.0}


def test_metrics_of_a_part_say_so_unless_the_targets_name_them() -> None:
    found = ledger_bench.named("verify", {"memory_mb": 1, "verify_s": 2, "entries": 3})
    assert found == {"memory_mb": 1, "verify_s": 2, "verify_entries": 3}


def test_a_journal_is_read_as_it_grows_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    read = cluster.Journal(path)
    assert read.poll() == []
    path.write_text('{"event": "opened", "round": 1, "time": 2.0}\n{"event": "ope')
    assert [event["round"] for event in read.poll()] == [1]
    with path.open("a") as file:
        file.write('ned", "round": 2, "time": 3.5}\ncut sho{"event": "x"}\n')
    assert [event["round"] for event in read.poll()] == [2]
    assert read.times("opened") == {1: 2.0, 2: 3.5}


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_BENCH_A", "before")
    monkeypatch.delenv("FORGE_BENCH_B", raising=False)
    with cluster.environment(FORGE_BENCH_A="a", FORGE_BENCH_B="b"):
        assert (cluster.os.environ["FORGE_BENCH_A"], cluster.os.environ["FORGE_BENCH_B"]) == ("a", "b")
    assert cluster.os.environ["FORGE_BENCH_A"] == "before"
    assert "FORGE_BENCH_B" not in cluster.os.environ


def test_survivors_wait_from_the_kill_or_from_their_own_last_delivery() -> None:
    assert stalls.settle_after(10.0, 13.5, [8.0, 9.0]) == 3.5
    assert stalls.settle_after(10.0, 13.5, [8.0, 12.0]) == 1.5
    assert stalls.settle_after(10.0, 13.5, []) == 3.5


def settled_at(*times: float, without: dict[int, str] | None = None) -> list[Event]:
    """Settled rounds from 1 on of the members a and b; of a round, one may be missing."""
    return [
        {"event": "settled", "round": number, "time": time, "tokens": 100,
         "accounts": [name for name in "ab" if name != (without or {}).get(number)]}
        for number, time in enumerate(times, 1)
    ]  # fmt: skip


def test_a_round_is_held_up_by_a_newcomer_if_it_is_long_or_lacks_an_old_member() -> None:
    calm = settled_at(0, 3, 6, 9, 12, 15)
    assert stalls.stalled(calm, 7.0, 6, "ab") == (0, [3, 3, 3, 3, 3])
    assert stalls.stalled(settled_at(0, 3, 6, 9, 14, 17), 7.0, 6, "ab")[0] == 1
    assert stalls.stalled(settled_at(0, 3, 6, 9, 12, 15, without={5: "b"}), 7.0, 6, "ab")[0] == 1
    assert stalls.stalled(settled_at(0, 3, 6, 9, 12, 99), 7.0, 5, "ab")[0] == 0, "it was in already"


def test_the_share_of_unequal_speeds_is_what_was_settled_over_what_all_can_train() -> None:
    events = journal(("training", 1, 0.0), ("training", 2, 10.0)) + journal(
        ("delivered", 1, 8.0), ("delivered", 2, 18.0), tokens=80
    )
    assert stalls.member_speed(events, range(1, 3)) == 10.0
    assert stalls.speed_share(settled_at(0, 10, 20), [2.0, 10.0]) == pytest.approx(10 / 12)
    with pytest.raises(stalls.DemoFailed, match="none of the rounds 5 to 6"):
        stalls.member_speed(events, range(5, 7))


def test_throttled_workers_run_one_after_the_other_within_a_period() -> None:
    turns = throttle.parts({11: 1 / 8, 12: 1 / 8, 13: 2 / 8, 14: 4 / 8})
    assert [pid for pid, _ in turns] == [11, 12, 13, 14]
    assert [seconds / turns[0][1] for _, seconds in turns] == list(recovery.SPEEDS)
    assert sum(seconds for _, seconds in turns) == pytest.approx(throttle.PERIOD_S)


def test_an_upload_is_what_the_counter_gained_from_round_to_round() -> None:
    samples = [
        upload.Sample(round=number, time=10.0 * number, sent_bytes=sent)
        for number, sent in ((1, 5000), (2, 5300), (3, 5700))
    ]
    found = upload.uploads(samples, 10_000)
    assert found == {"bytes_per_parameter": 0.035, "round_s": 10.0, "rounds": 2, "sent_bytes": [300, 400]}


def test_an_upload_with_a_round_unseen_is_not_counted() -> None:
    seen = [upload.Sample(round=number, time=1.0, sent_bytes=1) for number in (1, 3)]
    with pytest.raises(DemoFailed, match=r"\[1, 3\]"):
        upload.uploads(seen, 10)
    with pytest.raises(DemoFailed):
        upload.uploads(seen[:1], 10)


def test_the_training_share_is_steps_over_all_time_between_the_first_settled_round_and_the_last() -> None:
    leader = journal(("settled", 1, 10.0), ("settled", 2, 30.0), ("settled", 3, 50.0))
    one = journal(("delivered", 1, 9.0), ("delivered", 2, 29.0), ("delivered", 3, 49.0), seconds=19.0)
    other = journal(("delivered", 2, 28.0), seconds=10.0)
    assert vs_ddp.training_shares(leader, [one, other]) == [0.95, 0.25]


def test_no_two_ranks_are_quicker_than_their_line() -> None:
    # 10 million gradients of 4 bytes need 16 s on 20 Mbit/s
    assert vs_ddp.floor_tokens_per_s(10_000_000, 20.0) == pytest.approx(2 * vs_ddp.BATCH * vs_ddp.LENGTH / 16)


def test_a_pairs_speed_is_that_of_both_until_the_later_one_is_done() -> None:
    assert rivals.Burst(tokens=600, seconds=3.0, epochs=2).tokens_per_s == 200.0
