"""The simulator's command line, result file and plot."""

import json
from pathlib import Path

import pytest

from scripts.simulation.main import main

SHORT = ["--hours", "0.3", "--peers", "4", "8"]


def test_it_prints_a_table_and_writes_what_it_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = tmp_path / "folder" / "found.json"
    assert main([*SHORT, "--scheme", "flat", "ranges", "--json", str(wanted), "--online-hours", "inf"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["scheme", "peers", "rounds/h"]
    assert [line.split()[:2] for line in lines[1:5]] == [["flat", "4"], ["ranges", "4"], ["flat", "8"], ["ranges", "8"]]
    found = json.loads(wanted.read_text())
    assert [(r["scheme"], r["peers"]) for r in found["runs"]] == [
        ("flat", 4), ("ranges", 4), ("flat", 8), ("ranges", 8)
    ]  # fmt: skip
    assert found["settings"]["hours"] == 0.3
    assert all(r["rounds"] > 0 for r in found["runs"])


def test_it_draws_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main([*SHORT, "--scheme", "flat", "--plot", str(tmp_path / "found.png")]) == 0
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_make_no_sense_end_it_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--peers", "0"]) == 2
    assert capsys.readouterr().err == "simulate: peers is 0, wanted more than 0\n"


@pytest.mark.parametrize("wrong", [["--scheme", "ring"], ["--peers", "many"], ["--unknown", "1"], ["--hours", "long"]])
def test_arguments_that_cannot_be_read_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(wrong)
    assert refused.value.code == 2
    assert wrong[0] in capsys.readouterr().err
