"""Computes state ids of a fixed aggregation in this process; run with different threads and instruction sets."""

import sys

import numpy as np
import torch

from p2p_llm_forge import codec, outer
from p2p_llm_forge.settings import CodecSpec, OuterSpec, TrainingSpec
from p2p_llm_forge.state import Layout, State

CASES = [
    *(TrainingSpec(codec=CodecSpec(kind=kind), outer=OuterSpec(learning_rate=0.7)) for kind in ("topk", "f16")),
    *(
        TrainingSpec(codec=CodecSpec(kind=kind), outer=OuterSpec(kind="nesterov", learning_rate=0.7))
        for kind in ("f32", "int8", "int4")
    ),
    *(TrainingSpec(mode="synchronous", codec=CodecSpec(kind=kind)) for kind in ("f32", "int4")),
]
SHAPES = {"embed": (300, 211), "matrix": (512, 307), "norm": (513,)}


def ids() -> list[str]:
    """Three rounds by three members, for several codecs, modes and outer optimizers."""
    return [_case(spec) for spec in CASES]


def _case(spec: TrainingSpec) -> str:
    model = torch.nn.ParameterDict({name: torch.zeros(shape) for name, shape in SHAPES.items()})
    layout = Layout.of(model, spec.outer)
    state, random = State.of_model(model, layout), np.random.default_rng(7)
    for number in range(1, 4):
        updates = []
        for member in range(3):
            values = random.standard_normal(layout.parameters, dtype=np.float32) * (member + 0.37)
            values[:: member + 2] *= np.float32(1e-3)
            raw, _ = codec.encode(torch.from_numpy(values), spec.codec)
            updates.append(codec.decode(raw, spec.codec, layout.parameters))
        mean_P = outer.combine(updates, [5120, 10240, 2563], [outer.norm(update) for update in updates], spec)
        outer.step(state, mean_P, spec, number)
    return state.id()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    print("\n".join(ids()))
