"""Computes state ids of a fixed aggregation in this process; run with different threads and instruction sets."""

import sys

import numpy as np
import torch

from p2p_llm_forge import codec, outer
from p2p_llm_forge.settings import CodecSpec, OuterSpec
from p2p_llm_forge.state import Layout, State

SHAPES = {"embed": (300, 211), "matrix": (512, 307), "norm": (513,)}


def ids() -> list[str]:
    """Four rounds by three members, for each codec and outer optimizer."""
    found = []
    for kind in ("topk", "f32"):
        for step in ("sgd", "nesterov"):
            model = torch.nn.ParameterDict({name: torch.zeros(shape) for name, shape in SHAPES.items()})
            layout = Layout.of(model, momentum=step == "nesterov")
            state, random = State.of_model(model, layout), np.random.default_rng(7)
            spec = CodecSpec(kind=kind)
            for _ in range(4):
                updates = []
                for member in range(3):
                    values = random.standard_normal(layout.parameters, dtype=np.float32) * (member + 0.37)
                    values[:: member + 2] *= np.float32(1e-3)
                    raw, _ = codec.encode(torch.from_numpy(values), spec)
                    updates.append(codec.decode(raw, spec, layout.parameters))
                mean = outer.aggregate(updates, [5120, 10240, 2563], [outer.norm(update) for update in updates])
                setting = OuterSpec(kind=step, learning_rate=0.7)
                outer.step(state.weights_P, state.momentum_P, mean, setting)
            found.append(state.id())
    return found


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    print("\n".join(ids()))
