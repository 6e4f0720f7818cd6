"""Update codecs: round trips, sizes, and the refusal of everything that `encode` could not have written."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge import codec
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import CodecSpec

TOPK = st.builds(
    lambda chunk, k: CodecSpec(chunk=chunk, k=min(k, chunk)),
    st.integers(16, 200),
    st.integers(1, 70),
)
SPECS = (
    TOPK
    | st.builds(CodecSpec, kind=st.sampled_from(["f32", "f16"]))
    | st.builds(CodecSpec, kind=st.sampled_from(["int8", "int4"]), group=st.integers(16, 200))
)


def vector(size: int, seed: int) -> torch.Tensor:
    """Reproducible values of mixed magnitude."""
    random = np.random.default_rng(seed)
    return torch.from_numpy((random.standard_normal(size) * 10.0 ** random.integers(-6, 3, size)).astype(np.float32))


def dense(update: codec.Update) -> torch.Tensor:
    """The update as a full vector."""
    if update.indices is None:
        return update.values
    return torch.zeros(update.parameters).index_add_(0, update.indices, update.values)


@settings(max_examples=100, deadline=None)
@given(SPECS, st.integers(1, 1000), st.integers(0, 99))
def test_what_is_decoded_is_what_the_sender_believes_it_sent(spec: CodecSpec, size: int, seed: int) -> None:
    data, sent = codec.encode(vector(size, seed), spec)
    got = codec.decode(data, spec, size)
    assert len(data) == codec.encoded_bytes(spec, size)
    assert torch.equal(dense(got), dense(sent))
    if spec.kind == "f32":
        assert torch.equal(dense(got), vector(size, seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 200), st.integers(1, 70), st.integers(1, 1000), st.integers(0, 99))
def test_topk_sends_the_largest_of_each_chunk_with_their_signs(chunk: int, k: int, size: int, seed: int) -> None:
    spec, values = CodecSpec(chunk=chunk, k=min(k, chunk)), vector(size, seed)
    _, sent = codec.encode(values, spec)
    assert sent.indices is not None
    assert bool((sent.indices[1:] > sent.indices[:-1]).all())
    assert bool((torch.sign(values[sent.indices]) * sent.values >= 0).all())
    for start in range(0, size, chunk):
        part = values[start : start + chunk].abs()
        here = sent.indices[(sent.indices >= start) & (sent.indices < start + chunk)]
        assert len(here) == min(spec.k, len(part))
        assert torch.equal(values[here].abs().sort().values, part.topk(len(here)).values.sort().values)


def test_subtracting_what_was_sent_shrinks_the_residual() -> None:
    values = vector(100_000, 1)
    _, sent = codec.encode(values, CodecSpec())
    residual = values.clone()
    sent.subtract_from(residual)
    assert float(residual.norm()) < 0.7 * float(values.norm())
    _, exact = codec.encode(values, CodecSpec(kind="f32"))
    exact.subtract_from(values)
    assert not values.any()


@pytest.mark.parametrize("size", [1_000_000, 844_704, 10_000_000])
def test_topk_64_costs_at_most_three_hundredths_of_a_byte_per_parameter(size: int) -> None:
    assert codec.encoded_bytes(CodecSpec(k=64), size) <= 0.03 * size


@settings(max_examples=150, deadline=None)
@given(SPECS, st.integers(1, 300), st.data())
def test_a_mutated_update_is_refused_or_decodes_to_something_else_in_bounds(
    spec: CodecSpec, size: int, data: st.DataObject
) -> None:
    raw, sent = codec.encode(vector(size, 5), spec)
    at = data.draw(st.integers(0, len(raw) - 1))
    mutated = bytearray(raw)
    mutated[at] ^= data.draw(st.integers(1, 255))
    try:
        got = codec.decode(bytes(mutated), spec, size)
    except UpdateError:
        return
    assert at >= 32
    assert bool(torch.isfinite(got.values).all())
    # One update has one encoding: other bytes never decode to the same tensors, bit for bit.
    same = torch.equal(got.values.view(torch.int32), sent.values.view(torch.int32)) and (
        got.indices is None or (sent.indices is not None and torch.equal(got.indices, sent.indices))
    )
    assert not same or spec.kind == "topk", "a row whose values are all large does not use its other scale"
    assert got.indices is None or (int(got.indices.min()) >= 0 and int(got.indices.max()) < size)


@settings(max_examples=60, deadline=None)
@given(SPECS, st.integers(1, 300), st.integers(1, 50))
def test_truncated_and_longer_updates_are_refused(spec: CodecSpec, size: int, extra: int) -> None:
    raw, _ = codec.encode(vector(size, 5), spec)
    with pytest.raises(UpdateError, match="truncated"):
        codec.decode(raw[: max(len(raw) - extra, 0)], spec, size)
    with pytest.raises(UpdateError, match="trailing bytes"):
        codec.decode(raw + b"\x00" * extra, spec, size)


def topk_parts() -> tuple[CodecSpec, bytearray]:
    """One full row of 3 of 15: header, 8 bytes of scales, low bits, bitmap, codes."""
    spec = CodecSpec(chunk=16, k=3)
    raw, _ = codec.encode(vector(15, 2), spec)
    assert len(raw) == 32 + 8 + 1 + 1 + 1
    return spec, bytearray(raw)


@pytest.mark.parametrize(
    ("offset", "replacement", "reason"),
    [
        (32, struct.pack("<f", float("nan")), "non-finite"),
        (36, struct.pack("<f", float("inf")), "non-finite"),
        (32, struct.pack("<f", -0.0), "scales"),
        (32, struct.pack("<f", 1e9), "scales"),
        (40, bytes([0b11_01_01, 0b100110]), "ascend"),  # 5, 5, 15
        (40, bytes([0b11_01_10, 0b100110]), "ascend"),  # 6, 5, 15
        (40, bytes([0b11_01_00, 0b100110]), "outside its chunk"),  # 4, 5, 15
        (40, bytes([0b10_01_00, 0b000110]), "expected 3 in each"),
        (40, bytes([0b10_01_00, 0b101110]), "expected 3 in each"),
        (40, bytes([0x40]), "padding"),
        (41, bytes([0b1000110]), "padding"),
        (42, bytes([0x40]), "padding"),
        (0, b"X", "wrong header"),
        (4, b"\x02", "wrong header"),
        (5, b"\x02", "wrong header"),  # topk as it was
        (6, b"\x01", "wrong header"),
    ],
)
def test_non_canonical_topk_bytes_are_refused(offset: int, replacement: bytes, reason: str) -> None:
    spec, raw = topk_parts()
    raw[offset : offset + len(replacement)] = replacement
    with pytest.raises(UpdateError, match=reason):
        codec.decode(bytes(raw), spec, 15)


def test_indices_take_their_low_bits_and_a_bitmap() -> None:
    spec, raw = topk_parts()
    raw[40:42] = bytes([0b10_01_00, 0b100110])
    update = codec.decode(bytes(raw), spec, 15)
    assert update.indices is not None
    assert update.indices.tolist() == [4, 5, 14]


def test_topk_64_takes_88_bytes_for_4096_parameters() -> None:
    assert codec.encoded_bytes(CodecSpec(k=64), 4096) == 32 + 8 + 48 + 16 + 16


def test_non_finite_dense_values_and_another_shape_or_codec_are_refused() -> None:
    spec = CodecSpec(kind="f32")
    raw, _ = codec.encode(vector(8, 1), spec)
    with pytest.raises(UpdateError, match="non-finite"):
        codec.decode(raw[:-4] + struct.pack("<f", float("nan")), spec, 8)
    with pytest.raises(UpdateError, match="bytes, expected"):
        codec.decode(raw, spec, 9)
    with pytest.raises(UpdateError, match="bytes, expected"):
        codec.decode(raw, CodecSpec(), 8)


def test_a_diverged_update_is_never_sent() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(UpdateError, match="diverged"):
            codec.encode(torch.tensor([1.0, bad]), CodecSpec())


def test_values_near_the_end_of_the_number_range_never_become_infinite() -> None:
    _, sent = codec.encode(torch.full((64,), 3e38), CodecSpec(chunk=64, k=64))
    assert bool(torch.isfinite(sent.values).all())
