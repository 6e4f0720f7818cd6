"""The files that a worker leaves to the next: whole and ours, or told of and ignored."""

import json
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from p2p_llm_forge.errors import DiskError
from p2p_llm_forge.inner import Moments
from p2p_llm_forge.kept import FORMAT, HEADER_BYTES, Kept, Label, Residual
from p2p_llm_forge.state import Layout

LAYOUT = Layout(names=("a", "b"), shapes=((2, 3), (4,)), moments=(), counters=())
P = LAYOUT.parameters


def kept(folder: Path, config: str = "c" * 64, *, on: bool = True, layout: Layout = LAYOUT) -> Kept:
    """The files of this folder."""
    return Kept(folder, layout, config=config, on=on)


def left(number: int) -> tuple[Residual, Moments]:
    """What a round left."""
    label = Label(round=number, state=f"{number:064x}-9", update=f"{number:064x}-8")
    steps_T = torch.tensor([float(number), 0.0])
    moments = Moments.of(torch.arange(P) + 0.5, torch.arange(P) * 2.0, steps_T, LAYOUT)
    return Residual(label=label, values_P=torch.arange(P) * float(number)), moments


def write(files: Kept, number: int) -> None:
    """Leave this round and wait for it."""
    files.write(*left(number))
    files.end()


def test_what_was_kept_is_taken_up_by_another_as_it_was(tmp_path: Path) -> None:
    write(kept(tmp_path), 3)
    other = kept(tmp_path)
    residual, found = other.residual(4), other.moments(4)
    expected, moments = left(3)
    assert residual is not None
    assert found is not None
    assert (residual.label, found[0]) == (expected.label, expected.label)
    assert torch.equal(residual.values_P, expected.values_P)
    for name in ("first", "second"):
        assert all(map(torch.equal, getattr(found[1], name), getattr(moments, name)))
    assert found[1].steps_T.tolist() == [3.0, 0.0]
    assert other.notes == []
    assert other.residual(3) is other.moments(3) is None, "a round takes up nothing of its own or a later one"


def test_the_files_are_safetensors_of_the_bytes_that_are_promised(tmp_path: Path) -> None:
    write(kept(tmp_path), 1)
    tensors = load_file(tmp_path / "residual-1.safetensors")
    assert torch.equal(tensors["residual"], left(1)[0].values_P)
    assert set(load_file(tmp_path / "optimizer-1.safetensors")) == {"first", "second", "steps"}
    sizes = {path.name: path.stat().st_size - HEADER_BYTES for path in tmp_path.iterdir()}
    assert sizes == {"residual-1.safetensors": 4 * P, "optimizer-1.safetensors": 8 * P + 4 * 2}


def test_two_rounds_are_kept_and_none_after_the_newest(tmp_path: Path) -> None:
    files = kept(tmp_path)
    for number in (1, 2, 4):
        write(files, number)
    assert {path.name for path in tmp_path.iterdir()} == both(2, 4)
    write(files, 3)
    assert {path.name for path in tmp_path.iterdir()} == both(2, 3), "the run went back to round 2"


def both(*rounds: int) -> set[str]:
    """The names of these rounds' files."""
    return {f"{kind}-{number}.safetensors" for kind in ("residual", "optimizer") for number in rounds}


def test_what_a_killed_writer_left_half_done_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".residual-1.safetensors.123.part").write_bytes(b"half")
    kept(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_or_read_when_it_is_off(tmp_path: Path) -> None:
    write(kept(tmp_path, on=False), 1)
    assert list(tmp_path.iterdir()) == []
    write(kept(tmp_path), 1)
    assert kept(tmp_path, on=False).residual(2) is None


def relabelled(**changes: str) -> Callable[[bytes], bytes]:
    """A header with other metadata and everything else right."""

    def change(data: bytes) -> bytes:
        head = json.loads(data[8:HEADER_BYTES])
        head["__metadata__"].update(changes)
        text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
        return data[:8] + text.ljust(HEADER_BYTES - 8) + data[HEADER_BYTES:]

    return change


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "its header is none"),
        (lambda data: data[:100], "its header is none"),
        (lambda data: data[:HEADER_BYTES], "0 bytes of values"),
        (lambda data: data[:-1], "bytes of values, expected"),
        (lambda data: data + b"\0", "bytes of values, expected"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "another hash"),
        (lambda data: bytes(len(data)), "its header is none"),
        (lambda data: b"\xff" * len(data), "its header is none"),
        (lambda data: b"\x00" + data[1:], "not the canonical one"),
        (lambda data: data[:8] + b"[" * (HEADER_BYTES - 8) + data[HEADER_BYTES:], "its header is none"),
        (lambda data: data[:8] + b"[1]".ljust(HEADER_BYTES - 8) + data[HEADER_BYTES:], "its header is none"),
        (relabelled(format=FORMAT.replace("v1", "v2")), "this version reads"),
        (relabelled(config="d" * 64), "of another run"),
        (relabelled(kind="optimizer"), "not the canonical one"),
        (relabelled(round="1"), "its header says round 1"),
        (relabelled(round="-2"), "not the canonical one"),
        (relabelled(round="02"), "not the canonical one"),
        (relabelled(round="9" * 5000), "its header is none"),
        (relabelled(update="u" * 400), "not the canonical one"),
        (relabelled(more="x"), "not the canonical one"),
    ],
)
def test_a_damaged_or_foreign_file_is_told_of_and_the_one_before_is_taken_up(
    tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    files = kept(tmp_path)
    write(files, 1)
    write(files, 2)
    path = tmp_path / "residual-2.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    residual = files.residual(3)
    assert residual is not None
    assert residual.label.round == 1
    (note,) = files.notes
    assert note.startswith("not taken up: kept residual-2.safetensors: ")
    assert reason in note


def test_values_that_are_not_finite_and_other_shapes_are_refused(tmp_path: Path) -> None:
    files = kept(tmp_path)
    residual, moments = left(1)
    residual.values_P[3] = float("nan")
    files.write(residual, moments)
    files.end()
    assert files.residual(2) is None
    larger = Layout(names=("a", "b"), shapes=((2, 3), (5,)), moments=(), counters=())
    other = kept(tmp_path, layout=larger)
    assert other.moments(2) is None
    assert ["not finite" in files.notes[0], "not the canonical one of this model" in other.notes[0]] == [True, True]


def test_a_folder_in_the_place_of_a_file_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "residual-1.safetensors").mkdir()
    files = kept(tmp_path)
    assert files.residual(2) is None
    assert "Is a directory" in files.notes[0]


def test_a_full_disk_leaves_what_was_there_and_is_told(tmp_path: Path) -> None:
    files = kept(tmp_path)
    write(files, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (HEADER_BYTES + 1, HEADER_BYTES + 4 * P):  # too little for the residual, and for the moments only
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
        try:
            write(files, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert all((tmp_path / name).read_bytes() == data for name, data in before.items())
    assert ["free space" in note for note in files.notes] == [True, True]
    residual, found = files.residual(3), files.moments(3)
    assert residual is not None
    assert found is not None
    assert (residual.label.round, found[0].round) == (2, 1)


def test_nobody_waits_for_the_flush_and_a_broken_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, flushes, may = kept(tmp_path), [], threading.Event()

    def flush(path: Path) -> None:
        may.wait(60)
        flushes.append(path.name)
        raise DiskError(f"{path.name}: gone")

    monkeypatch.setattr("p2p_llm_forge.kept.sync_file", flush)
    files.write(*left(1))
    files.wait()
    assert flushes == []
    assert files.residual(2) is not None
    assert files.moments(2) is not None
    files._write("residual", left(2)[0].label, [left(2)[0].values_P])  # while nothing is flushed yet
    may.set()
    files.end()
    assert flushes == ["residual-1.safetensors"]
    assert files.notes == ["not kept: residual-1.safetensors: gone"]
    assert files.residual(3) is not None, "what is pruned after a round is nothing of a later one"
