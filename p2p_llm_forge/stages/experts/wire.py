"""How a call travels: a few numbers beside its tokens, which are encoded as other activations are.

The numbers are {"layer", "experts", "counts"}; from the counts follows the one length that the tokens may have, so what
a stranger sends is refused before its values are looked at. Answers and gradients travel as tokens do, in the same
shape. Tokens that several experts of a call share are sent once for each of them.

Shapes: S token-expert pairs of the call, D hidden size.

Pure: bytes and tensors only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from p2p_llm_forge.errors import RequestError
from p2p_llm_forge.stages import activations
from p2p_llm_forge.stages.activations import Kind
from p2p_llm_forge.stages.experts.call import Call

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


def encode(call: Call, kind: Kind) -> tuple[dict[str, object], bytes]:
    """The numbers and the tokens of a call. Raises ActivationError: a value is not finite, or out of range."""
    numbers = {"layer": call.layer, "experts": list(call.experts), "counts": list(call.counts)}
    return numbers, activations.encode(call.tokens_SD, kind)


def decode(numbers: object, data: Buffer, kind: Kind, *, hidden: int, most_pairs: int, holder: str) -> Call:
    """What `encode` gave; which layers and experts there are is for `call.check` to say.

    Args:
        most_pairs: of a call: tokens of a microbatch times experts chosen for each.
        holder: whom it is for.

    Raises:
        RequestError: other numbers than these. ActivationError: tokens of another kind, length or shape, or not finite.
    """
    if not isinstance(numbers, dict) or set(numbers) != {"layer", "experts", "counts"}:
        raise RequestError("call: wanted the keys layer, experts and counts")
    (layer,) = _whole([numbers["layer"]], "layer")
    experts, counts = _whole(numbers["experts"], "experts"), _whole(numbers["counts"], "counts")
    pairs = sum(counts)
    if not 1 <= pairs <= most_pairs or len(counts) > most_pairs:
        raise RequestError(f"call: {pairs} pairs of tokens and experts, wanted 1 … {most_pairs}")
    tokens_SD = activations.decode(data, kind, (pairs, hidden), "tokens")
    return Call(layer=layer, holder=holder, experts=experts, counts=counts, tokens_SD=tokens_SD)


def decode_like(call: Call, data: Buffer, kind: Kind, what: str) -> Tensor:
    """An answer to the call, or the gradients that go with it [S, D]. Raises ActivationError, naming `what`."""
    return activations.decode(data, kind, tuple(call.tokens_SD.shape), what)


def _whole(values: object, name: str) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 1 << 31 for value in values):
        raise RequestError(f"call: {name}: {str(values)[:40]}, wanted whole numbers, 0 or more")
    return tuple(values)
