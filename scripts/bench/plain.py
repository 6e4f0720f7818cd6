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


def main() -> None:
    """Train in bursts until the end of input."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("threads", "layers", "hidden", "heads", "vocabulary", "length", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    given = parser.parse_args()
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
    model = GPT2LMHeadModel(config)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=given.learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    sequences = torch.randint(given.vocabulary, (4096, given.length + 1))
    print(json.dumps({"parameters": sum(parameter.numel() for parameter in model.parameters())}), flush=True)
    step, all_steps = 0, 4000
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            at = step * given.batch % (len(sequences) - given.batch)
            tokens = sequences[at : at + given.batch]
            rate = given.learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(step / all_steps, 1.0)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        seconds = time.perf_counter() - started
        print(json.dumps({"tokens": int(line) * given.batch * given.length, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
