"""The codecs that send every coordinate (f16, int8, int4): error bounds, golden bytes, and every refusal."""

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge import codec
from p2p_llm_forge.codec import grouped
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import CodecSpec

HEADER = 32
LARGEST = {"int8": 127, "int4": 7}
GROUPED = st.builds(CodecSpec, kind=st.sampled_from(["int8", "int4"]), group=st.integers(16, 100))
EVERY_NUMBER = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=200)

# Each worked out by hand: spec, values, header and body.
GOLDEN: list[tuple[dict[str, Any], list[float], str]] = [
    (
        {"kind": "f32"},
        [1.0, -2.5],
        "46524755 01 01 0000 00000000 00000000 0200000000000000 0200000000000000 0000803f 000020c0",
    ),
    (
        {"kind": "f16"},
        [1.0, -2.0, 65504.0, 2.0**-24, 1.0 + 2.0**-11],  # the last lies between two halves: to the even one
        "46524755 01 03 0000 00000000 00000000 0500000000000000 0500000000000000 003c 00c0 ff7b 0100 003c",
    ),
    (
        {"kind": "int8", "group": 16},
        [127.0, -63.0, 1.5, 0.0, 0.4, *[0.0] * 11, -254.0],
        "46524755 01 04 0000 10000000 00000000 1100000000000000 1100000000000000 0000803f 00000040"
        "7f c1 02 00 00 0000000000000000000000 81",
    ),
    (
        {"kind": "int4", "group": 16},
        [7.0, -7.0, 3.0, -1.0, 0.4],
        "46524755 01 05 0000 10000000 00000000 0500000000000000 0500000000000000 0000803f 97 f3 00",
    ),
    (
        {"kind": "topk", "chunk": 16, "k": 3},
        [0.0, 4.0, 0.0, 0.0, 0.0, -2.0, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6],
        "46524755 01 06 0000 10000000 03000000 1000000000000000 0300000000000000 0000c03f 00008040 15 15 09",
    ),
]


@pytest.mark.parametrize(("spec", "values", "expected"), GOLDEN, ids=[spec["kind"] for spec, _, _ in GOLDEN])
def test_the_bytes_are_what_the_format_says(spec: dict[str, Any], values: list[float], expected: str) -> None:
    data, _ = codec.encode(torch.tensor(values), CodecSpec(**spec))
    assert data.hex() == expected.replace(" ", "")
    assert codec.decode(data, CodecSpec(**spec), len(values)).parameters == len(values)


@settings(max_examples=200, deadline=None)
@given(GROUPED, EVERY_NUMBER)
def test_no_value_is_further_than_half_a_step_of_its_group(spec: CodecSpec, values: list[float]) -> None:
    update_P = torch.tensor(values, dtype=torch.float32)
    data, sent = codec.encode(update_P, spec)
    got = codec.decode(data, spec, len(values))
    assert torch.equal(got.values.view(torch.int32), sent.values.view(torch.int32))
    assert bool(torch.isfinite(got.values).all())
    for start in range(0, len(values), spec.group):
        part = update_P[start : start + spec.group].double()
        step = float(part.abs().max()) / LARGEST[spec.kind]
        smallest = LARGEST[spec.kind] * 2.0**-126  # groups below are sent as zeros
        error = float((got.values[start : start + spec.group].double() - part).abs().max())
        assert error <= max(step * (0.5 + 1e-5), smallest)


@settings(max_examples=200, deadline=None)
@given(GROUPED, st.integers(1, 300), st.integers(0, 99), st.data())
def test_mutated_steps_and_scales_are_refused_or_the_one_encoding_of_something_else(
    spec: CodecSpec, size: int, seed: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    raw, sent = codec.encode(torch.from_numpy(random.standard_normal(size).astype(np.float32)), spec)
    mutated = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(HEADER, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = codec.decode(bytes(mutated), spec, size)
    except UpdateError:
        return
    body = np.frombuffer(bytes(mutated), dtype=np.uint8, offset=HEADER)
    assert grouped.pack(*grouped.unpack(body, spec, size), spec) == bytes(mutated[HEADER:])
    assert bool(torch.isfinite(got.values).all())
    assert torch.equal(got.values, sent.values) == (bytes(mutated) == raw)


@pytest.mark.parametrize("kind", ["f16", "int8", "int4"])
def test_error_feedback_leaves_nothing_unsent_for_long(kind: Any) -> None:
    spec, random = CodecSpec(kind=kind), torch.Generator().manual_seed(2)
    change_P, residual_P, total_P = torch.randn(1000, generator=random), torch.zeros(1000), torch.zeros(1000)
    for _ in range(30):
        residual_P.mul_(spec.decay).add_(change_P)
        _, sent = codec.encode(residual_P, spec)
        sent.subtract_from(residual_P)
        total_P.add_(sent.values)
    largest = float(change_P.abs().max())
    assert float((total_P - 30 * change_P).abs().max()) <= largest * {"f16": 2**-10, "int8": 0.01, "int4": 0.16}[kind]


@pytest.mark.parametrize(
    ("kind", "most"), [("f16", 2.0 + 1e-5), ("int8", 1.0625 + 1e-4), ("int4", 0.5625 + 1e-4), ("f32", 4.0 + 1e-5)]
)
def test_a_parameter_costs_what_the_settings_say(kind: Any, most: float) -> None:
    assert codec.encoded_bytes(CodecSpec(kind=kind), 10_000_000) <= most * 10_000_000


def number(value: float) -> bytes:
    """An fp32 scale."""
    return struct.pack("<f", value)


@pytest.mark.parametrize(
    ("kind", "offset", "replacement", "reason"),
    [
        ("int8", 32, number(float("nan")), "non-finite"),
        ("int8", 36, number(float("inf")), "non-finite"),
        ("int8", 32, number(3e37), "non-finite"),  # 127 times this is infinite
        ("int8", 32, number(-1.0), "non-canonical scales, expected zero or a positive normal"),
        ("int8", 32, number(-0.0), "non-canonical scales, expected zero or a positive normal"),
        ("int8", 32, number(1e-40), "non-canonical scales, expected zero or a positive normal"),
        ("int8", 32, number(0.0), "expected the largest step of a group to be 127"),
        ("int8", 40, b"\x80", "steps, expected at least -127, found -128"),
        ("int8", 40, b"\x7e", "expected the largest step of a group to be 127"),
        ("int8", 56, b"\x01", "expected the largest step of a group to be 127"),
        ("int8", 5, b"\x05", "wrong header"),
        ("int8", 6, b"\x01", "wrong header"),
        ("int8", 8, b"\x11", "wrong header"),
        ("int4", 32, number(-0.0), "non-canonical scales, expected zero or a positive normal"),
        ("int4", 32, number(1e38), "non-finite"),
        ("int4", 40, b"\x08", "steps, expected at least -7, found -8"),
        ("int4", 40, b"\x00", "expected the largest step of a group to be 7"),
        ("int4", 48, b"\x10", "padding"),
        ("f16", 32, b"\x00\x7c", "non-finite"),
        ("f16", 34, b"\x01\xfe", "non-finite"),
        ("f16", 5, b"\x01", "wrong header"),
        ("f16", 8, b"\x10", "wrong header"),
    ],
)
def test_what_encode_could_not_have_written_is_refused(kind: Any, offset: int, replacement: bytes, reason: str) -> None:
    """Seventeen values in two groups: the first of the first group is its largest, the second group is all zeros."""
    spec = CodecSpec(kind=kind) if kind == "f16" else CodecSpec(kind=kind, group=16)
    raw = bytearray(codec.encode(torch.tensor([7.0, *[1.0] * 15, 0.0]), spec)[0])
    codec.decode(bytes(raw), spec, 17)
    raw[offset : offset + len(replacement)] = replacement
    with pytest.raises(UpdateError, match=reason):
        codec.decode(bytes(raw), spec, 17)


def test_another_group_size_is_another_format() -> None:
    raw, _ = codec.encode(torch.ones(64), CodecSpec(kind="int8", group=33))
    with pytest.raises(UpdateError, match="wrong header"):
        codec.decode(raw, CodecSpec(kind="int8", group=32), 64)


@pytest.mark.parametrize("value", [65520.0, -1e9])
def test_a_value_that_half_precision_cannot_hold_is_refused_by_its_sender(value: float) -> None:
    with pytest.raises(UpdateError, match=r"outside the range of f16, 65504; set training\.codec\.kind: f32"):
        codec.encode(torch.tensor([1.0, value]), CodecSpec(kind="f16"))
    assert codec.encode(torch.tensor([65519.0]), CodecSpec(kind="f16"))[1].values.tolist() == [65504.0]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_ends_of_the_number_range_are_sent_without_becoming_infinite_or_subnormal(kind: Any) -> None:
    spec, most = CodecSpec(kind=kind), float(torch.finfo(torch.float32).max)
    for values in ([most, -most], [most, 1.0], [1e-40, 1e-45], [2.0**-126, 0.0], [0.0, -0.0]):
        raw, sent = codec.encode(torch.tensor(values), spec)
        assert torch.equal(codec.decode(raw, spec, 2).values, sent.values)
        assert bool(torch.isfinite(sent.values).all())
        assert float(sent.values.abs().max()) in (0.0, pytest.approx(max(map(abs, values)), rel=1e-6))
