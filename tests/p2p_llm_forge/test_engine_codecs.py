"""Every codec in a run of mode local: members agree, and what was settled leaves the residual."""

from pathlib import Path

import pytest
import torch

from .engines import member, owed, prepared, settled, train

pytestmark = pytest.mark.usefixtures("one_thread")

LEFT = {"f32": 0.0, "f16": 1e-3, "int8": 0.02, "int4": 0.2, "topk": 1.0}
"""Most of a change that a codec may leave for later."""


@pytest.mark.parametrize("kind", sorted(LEFT))
def test_members_agree_and_owe_only_what_the_codec_left_out(tmp_path: Path, kind: str) -> None:
    outer = {"kind": "sgd" if kind == "topk" else "nesterov"}
    run = prepared(tmp_path, codec={"kind": kind}, outer=outer, learning_rate=0.01, warmup_rounds=0)
    one, other = member(run, tmp_path / "1"), member(run, tmp_path / "2")
    before = one.evaluate(32)["loss"]
    for number in range(1, 5):
        replies = [train(one, number, number * 8, 4), train(other, number, number * 8 + 4, 4)]
        whole = float(owed(one).norm())
        ids = {engine.apply(number, settled(replies, mine))["state"] for mine, engine in enumerate((one, other))}
        assert len(ids) == 1
        assert float(owed(one).norm()) <= LEFT[kind] * whole
    assert one.evaluate(32)["loss"] < before


def test_a_missed_change_stays_whole_for_codecs_that_only_round(tmp_path: Path) -> None:
    run = prepared(tmp_path, codec={"kind": "int8"})
    one = member(run, tmp_path / "1")
    train(one, 1, 0, 4)
    missed_P = owed(one)
    one.apply(1, [])
    train(one, 2, 0, 4)
    change_P = one.inner.change(one.state.weights_P)
    assert torch.equal(owed(one), missed_P + change_P)
