"""An exported model whose run has stages: its weights prove the states of the stages, and those the run's.

IO: files in a temporary folder, a store beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.entries import Begin, Entry, StageOpen, StageSeat, StageSettle, run_id
from ledger.errors import ExportInvalid
from ledger.exported.card import PROOF
from ledger.exported.check import check_folder
from ledger.exported.weights import STATE, blob_id
from ledger.stages import run_state
from ledger.store.store import Store

from .exported_kit import (
    CONFIG,
    SHAPES,
    TOKENIZER,
    WEIGHTS,
    Model,
    Tensors,
    besides,
    canonical,
    make,
    safetensors,
    values,
)
from .world import ALICE, BOB, GENESIS, certify, spec_of

CUT = (("a.weight",), ("b.bias", "c.weight", "a.weight"))
"""The tensors of each stage; the first is tied, and so in both."""


def held_by(names: tuple[str, ...]) -> Tensors:
    """These of the weights."""
    return {name: WEIGHTS[name] for name in names}


def stage_state(weights: Tensors) -> tuple[bytes, int]:
    """The canonical state of a stage, and where its weights end."""
    size = sum(len(data) for _, data in weights.values())
    more = {"outer.momentum": ((size // 4,), values("momentum", (size // 4,)))}
    data = safetensors({**weights, **more}, {"format": "state"}, align=64)
    return data, len(data) - size


def staged(folder: Path, stages: Sequence[Tensors] = tuple(map(held_by, CUT))) -> Model:
    """The export of a run with two stages, after its first round."""
    plain = make(folder)
    states = [stage_state(weights) for weights in stages]
    before, after = [blob_id(b"first"), blob_id(b"second")], [blob_id(state) for state, _ in states]
    blobs = {
        "model": blob_id(canonical({"format": "p2p-llm-forge/model/v1", "config": CONFIG})),
        "tokenizer": blob_id(canonical(TOKENIZER)), "manifest": blob_id(b"manifest"), "state": run_state(before),
    }  # fmt: skip
    spec = spec_of(blobs=dict(blobs), stages={"shares": [400_000, 600_000], "states": before, "microbatch": 5})
    roster = (StageSeat(ALICE.public, 0, 10, 0), StageSeat(BOB.public, 0, 10, 1))
    log: list[Entry] = [
        Begin(spec=spec), StageOpen(round=1, state=run_state(before), roster=roster),
        StageSettle(round=1, receipts=(), states=tuple(after), state=run_state(after)),
    ]  # fmt: skip
    origin = GENESIS.run_origin(run_id(spec))
    with Store.open(plain.store, GENESIS) as store:
        store.append(origin, log, ALICE)
        certify(store, origin)
    card = replace(plain.card, run=run_id(spec), round=1, state=run_state(after))
    model = replace(plain, log=tuple(log), card=card)
    (folder / STATE).unlink()
    for number, (state, end) in enumerate(states):
        (folder / f"{STATE}-{number}").write_bytes(besides(state, end))
    (folder / PROOF).write_bytes(model.prove(2))
    model.sign()
    return model


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return staged(tmp_path / "model")


def test_the_weights_prove_the_states_of_all_stages(model: Model) -> None:
    found = check_folder(model.folder, GENESIS)
    assert found.parameters == sum(len(data) for _, data in WEIGHTS.values()) // 4  # the tied tensor once
    assert found.card.state == run_state(blob_id(stage_state(held_by(names))[0]) for names in CUT)
    assert found.tokenizer == tuple(sorted(TOKENIZER))


def rewrite(model: Model, tensors: Mapping[str, tuple[tuple[int, ...], bytes]]) -> None:
    """Write other weights."""
    (model.folder / "model.safetensors").write_bytes(safetensors(tensors, {"format": "pt"}))


def other_byte(model: Model) -> None:
    shape, data = WEIGHTS["b.bias"]
    rewrite(model, {**WEIGHTS, "b.bias": (shape, bytes([data[0] ^ 1]) + data[1:])})


def one_less(model: Model) -> None:
    rewrite(model, {name: WEIGHTS[name] for name in ("a.weight", "b.bias")})


def one_more(model: Model) -> None:
    rewrite(model, {**WEIGHTS, "d.weight": ((1,), b"abcd")})


def other_shape(model: Model) -> None:
    rewrite(model, {**WEIGHTS, "c.weight": (tuple(reversed(SHAPES["c.weight"])), WEIGHTS["c.weight"][1])})


def exchanged(model: Model) -> None:
    first, second = (model.folder / f"{STATE}-{number}" for number in (0, 1))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def one_state(model: Model) -> None:
    (model.folder / f"{STATE}-1").unlink()


def state_of_a_whole_model(model: Model) -> None:
    (model.folder / f"{STATE}-1").rename(model.folder / STATE)


@pytest.mark.parametrize(("change", "words"), [
    (other_byte, "provenance/state-0, provenance/state-1 give state"), (one_less, "c.weight: is missing"),
    (one_more, "d.weight: is no tensor of the state"), (other_shape, r"c.weight: shape is .* as in provenance/state-1"),
    (exchanged, "give state"), (one_state, "state-1: cannot be read"),
    (state_of_a_whole_model, "state-1: cannot be read"),
])  # fmt: skip
def test_an_exporter_that_signs_something_else_is_found_out(model: Model, change, words: str) -> None:
    change(model)
    model.sign()
    with pytest.raises(ExportInvalid, match=words):
        check_folder(model.folder, GENESIS)


def test_the_initial_state_is_that_of_entry_0(model: Model) -> None:
    (model.folder / PROOF).write_bytes(model.prove(0))
    model.sign(round=0)
    with pytest.raises(ExportInvalid, match="state is"):
        check_folder(model.folder, GENESIS)
    model.sign(round=0, state=model.log[0].state)  # type: ignore[attr-defined]
    with pytest.raises(ExportInvalid, match="give state"):
        check_folder(model.folder, GENESIS)


def rows(name: str, first: int, last: int) -> tuple[tuple[int, ...], bytes]:
    """Some rows of a weight."""
    (count, *rest), data = WEIGHTS[name]
    size = len(data) // count
    return (last - first, *rest), data[first * size : last * size]


def in_slices(first: int, last: int) -> list[Tensors]:
    """The states of a trunk, and of a group that has these rows of c.weight."""
    return [held_by(("a.weight", "b.bias")), {f"c.weight[{first}:{last}]": rows("c.weight", first, last)}]


def test_slices_of_a_tensor_prove_the_states_of_groups_of_experts(tmp_path: Path) -> None:
    model = staged(tmp_path / "model", in_slices(0, 700))
    found = check_folder(model.folder, GENESIS)
    assert found.parameters == sum(len(data) for _, data in WEIGHTS.values()) // 4


def test_a_row_that_no_group_has_is_found_out(tmp_path: Path) -> None:
    model = staged(tmp_path / "short", in_slices(0, 699))
    with pytest.raises(ExportInvalid, match=r"c\.weight: the states have 699 of its 700 rows"):
        check_folder(model.folder, GENESIS)
    model = staged(tmp_path / "late", in_slices(1, 700))
    with pytest.raises(ExportInvalid, match=r"c.weight\[1:700\]: wanted rows from 0 on, of 700"):
        check_folder(model.folder, GENESIS)


def test_another_byte_in_a_slice_is_found_out(tmp_path: Path) -> None:
    model = staged(tmp_path / "model", in_slices(0, 700))
    other_byte(model)
    model.sign()
    with pytest.raises(ExportInvalid, match="give state"):
        check_folder(model.folder, GENESIS)
