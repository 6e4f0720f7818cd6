"""A run that this version of the software cannot work with: told to its leader, and given up.

The log vouches for the bytes of a run's spec, tokenizer, model and data, so what the engine refuses in them does not
get better by trying again.

IO: a call to the leader.
"""

from __future__ import annotations

import contextlib
from importlib.metadata import version

from peer.errors import NetworkError, Unfit, WorkerRefused
from peer.messages import Goodbye
from peer.runs.run import Run
from peer.runs.wish import Ask

CODE = "FP-438"
CODES = {"FP-101", "FP-103", "FP-104", "FP-108"}
"""The engine's codes for a spec, tokenizer, model or data file that it cannot use."""
_REASON = 200


async def unless_unfit(exc: Exception, run: Run, ask: Ask) -> None:
    """Raise Unfit, once the leader knows, if that is what the worker's error says."""
    if not isinstance(exc, WorkerRefused) or exc.code not in CODES:
        return
    why = f"p2p-llm-forge {version('p2p-llm-forge')} cannot work with this run: {exc}"
    with contextlib.suppress(NetworkError):
        await ask("run.leave", Goodbye(run=run.id, reason=f"{CODE}: {why}"[:_REASON]).body())
    raise Unfit(CODE, why, "update it, or tell the submitter") from exc
