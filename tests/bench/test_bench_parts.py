"""The pure parts of the benchmarks: what they make of journals, of bursts and of states."""

from pathlib import Path
from typing import Any

import agreement
import cluster
import efficiency
import ledger_bench
import ledger_certify
import pytest
import round_overhead

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
    assert gap["member_apply"] == pytest.approx(0.2)
    assert gap["apply_store"] == pytest.approx(0.01)
    assert gap["receipt_and_cut"] == pytest.approx(0.2 - 0.02 - 0.10 - 0.04)
    assert sum(value for name, value in gap.items() if name != "total") == pytest.approx(gap["total"])


def test_gaps_of_the_warm_up_and_of_absent_members_do_not_count() -> None:
    early, homes = three_members(round_overhead.SKIPPED)
    assert round_overhead.gaps(early, homes) == []
    leader, homes = three_members(5)
    homes[2] = [event for event in homes[2] if event["event"] != "delivered"]
    assert round_overhead.gaps(leader, homes) == []


def test_the_summary_compares_the_median_with_two_applies_and_the_log() -> None:
    leader, homes = three_members(5)
    alone = {"apply": [9.0, 9.0, 0.04, 0.04], "append": [9.0, 9.0, 0.015], "cosign": [9.0, 9.0, 0.005]}
    found = round_overhead.summary(round_overhead.gaps(leader, homes), alone)
    assert found["p50_s"] == pytest.approx(0.4)
    assert found["floor_s"] == pytest.approx(0.1)
    assert found["over_floor"] == 4.0
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
