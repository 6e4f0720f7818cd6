"""The cheap benchmarks run, and keep the contract of the result file; their timings decide nothing here.

IO: a real daemon, processes.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import links
import plain
import psutil
import pytest
import rivals

from peer.demo.peers import DemoFailed

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
LONG = BENCH.parent / "long"
NAMES = (
    "footprint", "ledger", "efficiency", "round_overhead", "recovery", "agreement", "bytes", "vs_ddp", "pipeline",
    "pipeline_faults", "convergence",
)  # fmt: skip


def run(*words: object, status: set[int], patience_s: float = 300) -> str:
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience_s, check=False)
    assert done.returncode in status, done.stderr[-4000:]
    return done.stdout if done.returncode < 2 else done.stderr


@pytest.mark.e2e
def test_footprint_measures_help_and_an_idle_daemon(tmp_path: Path) -> None:
    file, plot = tmp_path / "footprint.json", tmp_path / "footprint.svg"
    table = run(BENCH / "footprint.py", "--quick", "--json", file, "--plot", plot, status={0, 1})
    told: dict[str, Any] = json.loads(file.read_text())
    assert told["name"] == "footprint"
    assert set(told["targets"]) == {"help_s", "idle_cpu_percent", "idle_rss_mb"}
    assert set(told["targets"]) < set(told["metrics"])
    assert told["metrics"]["processes"] == 2
    assert "idle_rss_mb" in table
    assert plot.stat().st_size > 0


@pytest.mark.e2e
def test_the_ledgers_benchmark_measures_all_its_targets(tmp_path: Path) -> None:
    file, plot = tmp_path / "ledger.json", tmp_path / "ledger.svg"
    table = run(BENCH / "ledger.py", "--quick", "--json", file, "--plot", plot, status={0, 1})
    told: dict[str, Any] = json.loads(file.read_text())
    assert told["name"] == "ledger"
    assert len(told["targets"]) == 7
    assert set(told["targets"]) < set(told["metrics"])
    assert told["metrics"]["certify_floor_ms"] > 0
    assert "certified_per_s" in table
    assert plot.stat().st_size > 0


@pytest.mark.e2e
def test_bytes_counts_at_an_interface_or_says_that_it_may_not(tmp_path: Path) -> None:
    file = tmp_path / "bytes.json"
    said = run(BENCH / "bytes.py", "--quick", "--json", file, status={0, 1, 2}, patience_s=900)
    if not file.exists():
        assert "root" in said or "iproute2" in said
        return
    told: dict[str, Any] = json.loads(file.read_text())["metrics"]
    for codec in ("topk", "f16"):
        assert told[f"{codec}_bytes_per_parameter"] > told[f"{codec}_payload_bytes_per_parameter"] > 0
    assert links.sweep() == []


@pytest.mark.e2e
def test_two_ranks_train_together_in_bursts_and_leave_nothing_behind(tmp_path: Path) -> None:
    sizes = {"threads": 1, "layers": 1, "hidden": 32, "heads": 2, "vocabulary": 64, "length": 16, "batch": 2}
    with rivals.pair("ddp", plain.words(sizes, 0.001), tmp_path) as pair:
        burst = pair.burst(3, patience_s=120)
        assert (burst.tokens, burst.epochs) == (2 * 3 * 2 * 16, 3)
        assert burst.seconds > 0
        with pytest.raises(DemoFailed, match="said nothing"):
            pair.burst(1_000_000, patience_s=0.01)
        processes = psutil.Process().children(recursive=True)
    assert not [process for process in processes if process.is_running()]


@pytest.mark.e2e
def test_the_pipelines_benchmark_measures_all_its_targets(tmp_path: Path) -> None:
    file, plot = tmp_path / "pipeline.json", tmp_path / "pipeline.svg"
    table = run(BENCH / "pipeline.py", "--quick", "--json", file, "--plot", plot, status={0, 1}, patience_s=600)
    told: dict[str, Any] = json.loads(file.read_text())
    assert set(told["targets"]) == {"throughput_ratio", "int8_bytes_per_element", "int8_loss_gap"}
    assert set(told["targets"]) < set(told["metrics"])
    assert 0 < told["metrics"]["transport_share"] < 1
    assert "throughput_ratio" in table
    assert plot.stat().st_size > 0


@pytest.mark.e2e
@pytest.mark.slow
def test_the_benchmark_of_kills_in_a_pipeline_measures_both_its_targets(tmp_path: Path) -> None:
    file, plot = tmp_path / "faults.json", tmp_path / "faults.svg"
    table = run(BENCH / "pipeline_faults.py", "--quick", "--json", file, "--plot", plot, status={0, 1}, patience_s=600)
    told: dict[str, Any] = json.loads(file.read_text())
    assert set(told["targets"]) == {"failover_s", "goodput_ratio"}
    assert set(told["targets"]) < set(told["metrics"])
    assert told["metrics"]["kills"] >= 1
    assert told["metrics"]["calm_tokens_per_s"] > 0
    assert "goodput_ratio" in table
    assert plot.stat().st_size > 0


def test_a_script_beside_the_ledgers_benchmark_still_finds_the_package() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import ledger.errors; print(ledger.errors.LedgerError.code)"
    assert run("-c", script, BENCH, status={0}) == "FP-200\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_the_options_of_the_contract(name: str) -> None:
    said = run(BENCH / f"{name}.py", "--help", status={0})
    assert all(option in said for option in ("--json", "--plot", "--quick"))


def test_an_unknown_benchmark_is_refused_before_anything_runs() -> None:
    run(BENCH / "run_all.py", "speed", status={2})


@pytest.mark.parametrize(("world", "count"), [("runs", 20), ("witnesses", 4), ("replicas", 2)])
def test_the_long_simulations_tell_how_they_ended(world: str, count: int) -> None:
    said = run(LONG / "seeds.py", world, "--count", count, "--first", 300, "--processes", 1, status={0})
    assert f"{world}, {count} seeds from 300: 0 broken" in said


def test_the_long_property_tests_get_more_examples(tmp_path: Path) -> None:
    test = tmp_path / "test_some.py"
    test.write_text(
        "from hypothesis import given, settings, strategies as st\n"
        "seen = set()\n"
        "@settings(max_examples=3, database=None)\n"
        "@given(st.integers())\n"
        "def test_some(n): seen.add(n)\n"
        "def test_more(): assert len(seen) > 30\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "more_examples", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(LONG)}, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
