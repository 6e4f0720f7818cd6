"""The result file of the benchmarks, their targets and their table."""

import json
from pathlib import Path

import harness
import pytest
from harness import Options, Result

from peer.errors import ForgeError

KEYS = {"name", "machine", "metrics", "targets", "ok"}


def result(**metrics: object) -> Result:
    targets = {"ratio": (">=", 0.95), "mismatches": ("==", 0.0)}
    return Result(name="some", metrics=metrics, targets=targets)


def test_a_result_is_ok_when_every_target_is_met() -> None:
    assert result(ratio=0.95, mismatches=0).ok
    assert not result(ratio=0.949, mismatches=0).ok
    assert not result(ratio=1.2, mismatches=1).ok


def test_a_target_without_a_figure_is_missed() -> None:
    assert not result(ratio=0.96).ok
    assert not result(ratio=None, mismatches=0).ok


@pytest.mark.parametrize(
    ("sign", "below", "same", "above"),
    [
        ("<", True, False, False),
        ("<=", True, True, False),
        ("==", False, True, False),
        (">=", False, True, True),
        (">", False, False, True),
    ],
)
def test_operators_mean_what_they_say(sign: str, below: bool, same: bool, above: bool) -> None:
    for value, held in ((1, below), (2, same), (3, above)):
        assert Result(name="some", metrics={"x": value}, targets={"x": (sign, 2.0)}).ok is held


def test_a_result_survives_its_file() -> None:
    first = result(ratio=0.96, mismatches=0, ratios=[0.95, 0.97])
    value = json.loads(json.dumps(first.encode()))
    assert set(value) == KEYS
    assert value["targets"] == {"ratio": [">=", 0.95], "mismatches": ["==", 0.0]}
    assert Result.decode(value) == first


def test_the_table_names_targets_first_and_marks_what_is_missed() -> None:
    lines = harness.table([result(speed=12345.6, ratio=0.9, mismatches=0, ratios=[1, 2])]).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["some", "ratio"], ["some", "mismatches"], ["some", "speed"]]
    assert lines[1].split()[2:] == ["0.9", ">=", "0.95", "MISSED"]
    assert lines[2].endswith("ok")
    assert "12,346" in lines[3]


def test_the_command_line_writes_the_file_and_tells_by_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(options: Options) -> Result:
        assert options.quick
        assert options.folder.is_dir()
        (options.folder / "kept").touch()
        return result(ratio=0.96, mismatches=0)

    file = tmp_path / "new" / "some.json"
    words = ["--quick", "--json", str(file), "--folder", str(tmp_path / "homes")]
    assert harness.main("some", "about", measure, lambda result, path: None, words) == 0
    told = json.loads(file.read_text())
    assert set(told) == KEYS
    assert told["ok"] is True
    assert told["machine"]["quick"] is True
    assert told["machine"]["cores"] >= 1
    assert (tmp_path / "homes" / "kept").exists()
    assert "ratio" in capsys.readouterr().out


def test_what_could_not_be_measured_is_one_line_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    folders = []

    def measure(options: Options) -> Result:
        folders.append(options.folder)
        raise ForgeError("FP-590", "no luck", "try again")

    assert harness.main("some", "about", measure, lambda result, path: None, []) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not folders[0].exists()


def test_a_full_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thing").touch()
    with pytest.raises(SystemExit, match="not empty"), harness.work_folder(tmp_path, "some"):
        pass
