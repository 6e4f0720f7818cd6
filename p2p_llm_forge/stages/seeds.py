"""The seed under which a stage sees a microbatch, forward and again in backward, so that its dropout agrees.

It hangs on nothing but the run, the round, the microbatch and the stage: whichever replica does the work, and however
often, the same values are dropped (on machines with the same generator).

Pure: hashing only.
"""

from __future__ import annotations

import hashlib


def stage_seed(run_seed: int, round_number: int, microbatch: int, stage: int) -> int:
    """For `torch.manual_seed`; 56 bits."""
    text = f"p2p-llm-forge/stage/v1\n{run_seed} {round_number} {microbatch} {stage}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
