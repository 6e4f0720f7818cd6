"""The cheap benchmarks run, and keep the contract of the result file; their timings decide nothing here.

IO: a real daemon, processes.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
LONG = BENCH.parent / "long"
NAMES = ("footprint", "ledger", "efficiency", "round_overhead", "agreement", "convergence")


def run(*words: object, status: set[int]) -> str:
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in status, done.stderr[-4000:]
    return done.stdout


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
