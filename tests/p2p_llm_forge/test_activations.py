"""What travels between stages: round trips, error bounds, golden bytes, and every refusal."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2p_llm_forge.errors import ActivationError
from p2p_llm_forge.stages.activations import Kind, decode, encode, encoded_bytes

HIDDEN: list[Kind] = ["int8", "bf16", "f32"]
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 70))
HEADER = 20


def values(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Normal values of very different sizes."""
    random = np.random.default_rng(seed)
    return torch.from_numpy((random.standard_normal(shape) * 10.0 ** random.integers(-6, 6, shape)).astype("f4"))


@given(SHAPES, st.integers(0, 1 << 30), st.sampled_from(HIDDEN))
def test_values_come_back_within_the_rounding_of_their_kind(shape: tuple[int, ...], seed: int, kind: Kind) -> None:
    sent = values(shape, seed)
    data = encode(sent, kind)
    assert len(data) == encoded_bytes(kind, shape)
    got = decode(data, kind, shape, "input")
    assert got.shape == sent.shape
    assert encode(got, kind) == data or kind == "int8"  # rounding again rounds nothing
    error = (got - sent).abs().flatten()
    if kind == "f32":
        assert torch.equal(got, sent)
    elif kind == "bf16":
        assert bool((error <= sent.abs().flatten() * 2.0**-8).all())
    else:
        flat = torch.nn.functional.pad(sent.flatten(), (0, -sent.numel() % 64)).view(-1, 64)
        steps = (flat.abs().amax(dim=1) / 127).repeat_interleave(64)[: sent.numel()]
        assert bool((error <= steps * 0.5001 + 1e-37).all())


@given(SHAPES, st.integers(0, 1 << 30))
def test_tokens_come_back_exactly(shape: tuple[int, ...], seed: int) -> None:
    tokens = torch.from_numpy(np.random.default_rng(seed).integers(-1, 1 << 22, shape[:2]))
    data = encode(tokens, "tokens")
    assert torch.equal(decode(data, "tokens", shape[:2], "targets"), tokens)


def test_equal_values_have_equal_bytes_whatever_their_strides() -> None:
    sent = values((4, 6, 64), 1)
    turned = sent.transpose(0, 2).contiguous().transpose(0, 2)
    for kind in HIDDEN:
        assert encode(sent, kind) == encode(turned, kind) == encode(sent.clone(), kind)


def test_the_bytes_are_what_the_format_says() -> None:
    head = "46524741 01 {} 02 00 01000000 02000000"
    golden: dict[Kind, tuple[torch.Tensor, str]] = {
        "f32": (torch.tensor([[1.0, -2.5]]), head.format("01") + "0000803f 000020c0"),
        "bf16": (torch.tensor([[1.0, -2.5]]), head.format("02") + "803f 20c0"),
        "int8": (torch.tensor([[127.0, -63.0]]), head.format("03") + "0000803f 7f c1"),
        "tokens": (torch.tensor([[7, -1]]), head.format("04") + "07000000 ffffffff"),
    }
    for kind, (sent, expected) in golden.items():
        assert encode(sent, kind).hex() == expected.replace(" ", "")


def test_int8_takes_no_more_than_a_byte_and_seven_hundredths_a_value() -> None:
    for shape in ((4, 128, 256), (1, 64, 64), (8, 1024, 4096)):
        assert encoded_bytes("int8", shape) / np.prod(shape) <= 1.07


@given(st.integers(0, HEADER - 1), st.integers(1, 255), st.sampled_from([*HIDDEN, "tokens"]))
def test_a_header_with_any_byte_changed_is_refused(at: int, change: int, kind: Kind) -> None:
    sent = torch.arange(24).view(2, 3, 4)
    data = bytearray(encode(sent if kind == "tokens" else sent.float(), kind))
    data[at] ^= change
    with pytest.raises(ActivationError) as caught:
        decode(bytes(data), kind, (2, 3, 4), "input")
    assert "got" in caught.value.message
    assert "wanted" in caught.value.message


@given(st.binary(max_size=100), st.sampled_from([*HIDDEN, "tokens"]))
def test_garbage_is_refused(data: bytes, kind: Kind) -> None:
    with pytest.raises(ActivationError):
        decode(data, kind, (2, 3, 4), "input")


@given(st.data(), st.sampled_from(HIDDEN))
def test_a_changed_body_is_refused_or_finite(data: st.DataObject, kind: Kind) -> None:
    sent = bytearray(encode(values((2, 3, 4), 5), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(HEADER, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = decode(bytes(sent), kind, (2, 3, 4), "input")
    except ActivationError:
        return
    assert bool(torch.isfinite(got).all())


@pytest.mark.parametrize("kind", [*HIDDEN, "tokens"])
def test_another_length_is_refused_with_what_was_got_and_wanted(kind: Kind) -> None:
    sent = torch.ones((1, 2, 64), dtype=torch.int64 if kind == "tokens" else torch.float32)
    data = encode(sent, kind)
    others = ((data[:-1], "truncated"), (data + b"\x00", "oversize"), (b"", "got 0 bytes"), (data[:7], "got 7 bytes"))
    for bad, text in others:
        with pytest.raises(ActivationError, match=text):
            decode(bad, kind, (1, 2, 64), "gradient")
    with pytest.raises(ActivationError, match=rf"gradient: got {kind} \[1, 2, 64\], wanted {kind} \[1, 2, 32\]"):
        decode(data, kind, (1, 2, 32), "gradient")
    with pytest.raises(ActivationError, match=r"got .* \[1, 2, 64\], wanted"):
        decode(data, "f32" if kind != "f32" else "bf16", (1, 2, 64), "gradient")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", HIDDEN)
def test_what_is_not_finite_is_neither_written_nor_taken(kind: Kind, bad: float) -> None:
    sent = torch.ones(1, 2, 4)
    good = encode(sent, kind)
    sent[0, 1, 2] = bad
    with pytest.raises(ActivationError, match="not finite"):
        encode(sent, kind)
    raw = {"f32": struct.pack("<f", bad), "bf16": struct.pack("<f", bad)[2:], "int8": struct.pack("<f", bad)}[kind]
    with pytest.raises(ActivationError, match=r"input: .*(not finite|non-finite|non-canonical)"):
        decode(good[:HEADER] + raw + good[HEADER + len(raw) :], kind, (1, 2, 4), "input")


def test_what_bf16_cannot_hold_is_refused_by_its_sender() -> None:
    largest = torch.tensor([[3.4e38]])
    with pytest.raises(ActivationError, match=r"outside the range of bf16; set pipeline\.activations: f32"):
        encode(largest, "bf16")
    assert torch.equal(decode(encode(largest, "f32"), "f32", (1, 1), "input"), largest)
