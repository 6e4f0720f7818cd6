"""What one holder is asked in one layer: tokens for some of its experts, in one call; and what of it is refused.

Shapes: S token-expert pairs of the call, D hidden size.

Pure: tensors only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p_llm_forge.errors import ActivationError, HolderError, RequestError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.stages.experts.fused import Fused


@dataclass(frozen=True, kw_only=True)
class Call:
    """One question, of a forward or a backward pass."""

    layer: int
    """Counted over the layers that have experts, from 0."""
    holder: str
    """Who is asked."""
    experts: tuple[int, ...]
    """Those that have tokens, ascending, numbered as in the whole model."""
    counts: tuple[int, ...]
    """Tokens of each."""
    tokens_SD: Tensor
    """fp32 on the CPU: the tokens of the first expert, then those of the second, …"""

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Each expert with the rows of its tokens: expert, start, end."""
        at = 0
        for expert, count in zip(self.experts, self.counts, strict=True):
            yield expert, at, at + count
            at += count


def check(call: Call, fused: Sequence[Fused], span: tuple[int, int]) -> None:
    """Refuse what a shard with these experts of these layers cannot serve.

    Raises:
        RequestError: no such layer or expert. ActivationError: no such tokens.
    """
    first, last = span
    where = f"experts {first}:{last}, layer {call.layer}"
    if not 0 <= call.layer < len(fused):
        raise RequestError(f"experts {first}:{last}: layer {call.layer} is out of range, wanted 0…{len(fused) - 1}")
    if not call.experts or len(call.experts) != len(call.counts):
        raise RequestError(f"{where}: {len(call.experts)} experts with {len(call.counts)} counts, wanted one for each")
    for expert in call.experts:
        if not first <= expert < last:
            raise RequestError(f"{where}: expert {expert} is out of range, wanted {first}…{last - 1}")
    if any(left >= right for left, right in zip(call.experts, call.experts[1:], strict=False)):
        raise RequestError(f"{where}: experts {list(call.experts)[:16]}, wanted ascending ones")
    if min(call.counts) < 1:
        raise RequestError(f"{where}: {min(call.counts)} tokens for an expert, wanted 1 or more")
    if fault := _fault(call.tokens_SD, (sum(call.counts), fused[call.layer].hidden)):
        raise ActivationError(f"{where}: tokens are {fault}")


def check_gradient(call: Call, gradient_SD: Tensor, where: str) -> None:
    """Refuse gradients that are not those of the call's outputs. Raises ActivationError."""
    if fault := _fault(gradient_SD, tuple(call.tokens_SD.shape)):
        raise ActivationError(f"{where}, layer {call.layer}: gradients are {fault}")


def check_answer(call: Call, answer_SD: Tensor, name: str) -> None:
    """Refuse what a holder answered, forward or backward. Raises HolderError, which names the holder.

    Args:
        name: of the layer's module.
    """
    if fault := _fault(answer_SD, tuple(call.tokens_SD.shape)):
        raise HolderError(f"{name}: {call.holder} answered {fault}", holder=call.holder)


def _fault(values: Tensor, shape: tuple[int, ...]) -> str | None:
    """What is wrong with a tensor that must be fp32, of this shape and finite."""
    if values.dtype != torch.float32 or tuple(values.shape) != shape:
        found = f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"
        return f"{found}, wanted float32 {list(shape)}"
    return None if is_finite(values) else "not finite, wanted numbers"
