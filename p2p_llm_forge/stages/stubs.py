"""What stands in a stage for the modules that other stages hold.

The model's own forward runs in every stage, so that it makes its masks and rotary embeddings as ever. Layers before
the stage's own let their input pass, and the last of them gives what arrived from the stage before; what an embedding
would have given is zeros until then. The first layer after the stage's own notes what leaves.

Shapes: B sequences, L tokens, D hidden size.

Pure: but for what the edge carries during one forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Edge:
    """What arrives at a stage and what leaves it, during one forward pass."""

    def __init__(self) -> None:
        self.arriving: Tensor | None = None
        self.leaving: Tensor | None = None
        self._drawn: Tensor | None = None  # The random state when it arrived.

    def arrive(self, hidden_BLD: Tensor) -> None:
        """A forward pass begins with this."""
        self.arriving, self._drawn = hidden_BLD, _generator(hidden_BLD).get_state()

    def enter(self) -> Tensor:
        """What arrived, with the random state as it was then: what came before was no part of this stage."""
        assert self.arriving is not None
        assert self._drawn is not None
        _generator(self.arriving).set_state(self._drawn)
        return self.arriving

    def clear(self) -> None:
        """The pass is over."""
        self.arriving = self.leaving = self._drawn = None


def _generator(tensor: Tensor) -> torch.Generator:
    """Torch's global one where this tensor is."""
    if tensor.device.type == "cuda":
        generator: torch.Generator = torch.cuda.default_generators[tensor.device.index or 0]
        return generator
    return torch.default_generator


class Blank(nn.Module):
    """In place of an embedding, or of a norm or dropout of it: zeros [B, L, D], which nobody looks at."""

    def __init__(self, edge: Edge) -> None:
        super().__init__()
        self._edge = edge

    @property
    def weight(self) -> Tensor:
        """Some models ask their embedding on which device and of which kind it is."""
        assert self._edge.arriving is not None
        return self._edge.arriving

    def forward(self, *_: object, **__: object) -> Tensor:
        """Zeros like what arrived."""
        return torch.zeros_like(self.weight)


class Past(nn.Module):
    """In place of a norm or head after the layers: what it is given, which nobody looks at."""

    def forward(self, first: object, *_: object, **__: object) -> object:
        """The first argument."""
        return first


class Through(nn.Module):
    """In place of a layer, with its plain attributes: hands on what it got, in the form in which the layer does."""

    def __init__(self, layer: nn.Module, returns: int | None) -> None:
        super().__init__()
        self._returns = returns
        kinds = [kind for kind in reversed(type(layer).__mro__) if kind not in nn.Module.__mro__]
        for owner in (*kinds, layer):
            for name, value in vars(owner).items():
                if not name.startswith("_") and isinstance(value, (str, int, float, type(None))):
                    setattr(self, name, value)

    def forward(self, *args: object, **kwargs: object) -> object:
        """Like the layer's: hidden states [B, L, D] come first."""
        hidden_BLD = args[0] if args else kwargs["hidden_states"]
        assert isinstance(hidden_BLD, Tensor)
        hidden_BLD = self.carry(hidden_BLD)
        return hidden_BLD if self._returns is None else (hidden_BLD, *[None] * (self._returns - 1))

    def carry(self, hidden_BLD: Tensor) -> Tensor:
        """What becomes of the hidden states."""
        return hidden_BLD


class Enter(Through):
    """The last layer before the stage: from here on it is what arrived."""

    def __init__(self, layer: nn.Module, returns: int | None, edge: Edge) -> None:
        super().__init__(layer, returns)
        self._edge = edge

    def carry(self, hidden_BLD: Tensor) -> Tensor:
        """What arrived."""
        return self._edge.enter()


class Leave(Through):
    """The first layer after the stage: what it is given leaves."""

    def __init__(self, layer: nn.Module, returns: int | None, edge: Edge) -> None:
        super().__init__(layer, returns)
        self._edge = edge

    def carry(self, hidden_BLD: Tensor) -> Tensor:
        """The same, noted."""
        self._edge.leaving = hidden_BLD
        return hidden_BLD
