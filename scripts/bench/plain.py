"""The alternative that `efficiency` compares with: a plain PyTorch training loop, as anybody would write it.

A GPT-2 of `transformers`, AdamW (fused), gradient clipping, a cosine, sequences in memory: the arithmetic of one member
and nothing else, neither data files, updates, hashes nor progress. It is driven over pipes, so that bursts of it can
alternate with something else: after a first line, each line on standard input is a number of steps to take.

IO: standard input and output.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SIZES = ("threads", "layers", "hidden", "heads", "vocabulary", "length", "batch")
SEQUENCES, ALL_STEPS = 4096, 4000
ADAMW: dict[str, Any] = {"betas": (0.9, 0.95), "weight_decay": 0.1, "fused": True}


def words(sizes: Mapping[str, int], learning_rate: float) -> list[str]:
    """The command line's options."""
    given = {**{name: sizes[name] for name in SIZES}, "learning-rate": learning_rate}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def options() -> argparse.ArgumentParser:
    """What describes the training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    return parser


def build(given: argparse.Namespace) -> torch.nn.Module:
    """The model, in training mode; call before anything else uses torch."""
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(given.threads)
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=given.vocabulary, n_positions=given.length, n_embd=given.hidden, n_layer=given.layers,
        n_head=given.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    model: torch.nn.Module = GPT2LMHeadModel(config)
    return model.train()


class Loop:
    """Steps of a model, whatever stands behind it and the optimizer."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, given: argparse.Namespace) -> None:
        import torch

        self._model = model
        self._optimizer = optimizer
        self._given = given
        self._sequences = torch.randint(given.vocabulary, (SEQUENCES, given.length + 1))
        self._step = 0

    def step(self) -> None:
        """Forward, backward, clip, AdamW."""
        import torch

        given = self._given
        at = self._step * given.batch % (SEQUENCES - given.batch)
        tokens = self._sequences[at : at + given.batch]
        rate = given.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(self._step / ALL_STEPS, 1.0)))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        logits = self._model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._step += 1

    def burst(self, steps: int) -> dict[str, float]:
        """Take so many steps; tells how long that took."""
        started = time.perf_counter()
        for _ in range(steps):
            self.step()
        return {"tokens": steps * self._given.batch * self._given.length, "seconds": time.perf_counter() - started}


def tell(value: Mapping[str, Any]) -> None:
    """One line on standard output."""
    print(json.dumps(value), flush=True)


def main() -> None:
    """Train in bursts until the end of input."""
    given = options().parse_args()
    model = build(given)
    import torch

    loop = Loop(model, torch.optim.AdamW(model.parameters(), lr=given.learning_rate, **ADAMW), given)
    tell({"parameters": sum(parameter.numel() for parameter in model.parameters())})
    for line in sys.stdin:
        tell(loop.burst(int(line)))


if __name__ == "__main__":
    main()
