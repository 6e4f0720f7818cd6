"""Calls as they travel: what was sent arrives, and nothing else is taken."""

from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge.errors import ActivationError, RequestError
from p2p_llm_forge.stages.activations import Kind
from p2p_llm_forge.stages.experts import wire
from p2p_llm_forge.stages.experts.call import Call

BYTES: dict[Kind, float] = {"f32": 4.0, "bf16": 2.0, "int8": 1.0625}


def call(rows: int = 5, seed: int = 1) -> Call:
    """Two experts with tokens."""
    tokens = torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed))
    return Call(layer=3, holder="me", experts=(2, 7), counts=(rows - 2, 2), tokens_SD=tokens)


@pytest.mark.parametrize("kind", ["f32", "bf16", "int8"])
def test_a_call_arrives_as_it_was_sent_but_for_rounding(kind: Kind) -> None:
    sent = call(rows=200)
    numbers, data = wire.encode(sent, kind)
    found = wire.decode(numbers, data, kind, hidden=64, most_pairs=200, holder="me")
    assert (found.layer, found.holder, found.experts, found.counts) == (3, "me", (2, 7), (198, 2))
    assert float((found.tokens_SD - sent.tokens_SD).norm() / sent.tokens_SD.norm()) <= {"f32": 0.0}.get(kind, 0.01)
    assert torch.equal(wire.decode_like(sent, data, kind, "answer"), found.tokens_SD)
    assert len(data) <= 200 * 64 * BYTES[kind] + 16


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        ([], "wanted the keys layer, experts and counts"),
        ({"layer": 0, "experts": [1]}, "wanted the keys layer, experts and counts"),
        ({"layer": True, "experts": [2, 7], "counts": [3, 2]}, r"layer: \[True\], wanted whole numbers"),
        ({"layer": 0, "experts": [2, -7], "counts": [3, 2]}, r"experts: \[2, -7\], wanted whole numbers, 0 or more"),
        ({"layer": 0, "experts": [2, 7], "counts": [3, 2.0]}, r"counts: \[3, 2\.0\], wanted whole numbers"),
        ({"layer": 0, "experts": "27", "counts": [3, 2]}, r"experts: 27, wanted whole numbers"),
        ({"layer": 0, "experts": [2, 7], "counts": [3, 3]}, r"tokens: got f32 \[5, 64\], wanted f32 \[6, 64\]"),
        (
            {"layer": 0, "experts": [2, 7], "counts": [3, 1 << 30]},
            r"1073741827 pairs of tokens and experts, wanted 1 … 8",
        ),
        ({"layer": 0, "experts": [2, 7], "counts": [0, 0]}, r"0 pairs of tokens and experts, wanted 1 … 8"),
    ],
)
def test_other_numbers_are_refused_in_one_line(numbers: Any, fault: str) -> None:
    _, data = wire.encode(call(), "f32")
    with pytest.raises((ActivationError, RequestError), match=fault):
        wire.decode(numbers, data, "f32", hidden=64, most_pairs=8, holder="me")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_mutated_call_is_refused_or_well_formed(data: st.DataObject) -> None:
    numbers, raw = wire.encode(call(), "bf16")
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = bytearray(raw)
    changed[at] ^= data.draw(st.integers(1, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(raw)))])
    with suppress(ActivationError, RequestError):
        found = wire.decode(numbers, cut, "bf16", hidden=64, most_pairs=8, holder="me")
        assert found.tokens_SD.shape == (5, 64)
        assert bool(found.tokens_SD.isfinite().all())
