"""Tokens per second of two stages in two workers against torch.distributed.pipelining, 1F1B over gloo with two ranks.

Both train the same GPT-2, cut at the same layer, one CPU thread each, microbatches of the same size, and as many of
them for each AdamW step. Ours are two real workers, driven from here as a daemon does it: tensors in shared memory,
`in_flight` microbatches under way; a round ends with both updates written, their norms exchanged, the step taken and
the new states hashed and written. What two daemons add between them is not in it. Bursts of both take turns.

`transport_share`: of the time of a pass with nothing else under way, what the worker did not spend in the stage: both
pipes, the copies into and out of shared memory, and encoding and decoding (measured alone, on tensors of that size).
`int8_loss_gap`: how much worse the last losses are after so many steps with int8 activations than with fp32 ones, in
nats a token, on the same microbatches.

IO: workers and ranks as processes; standard error.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import harness
import plain
import rivals
from harness import Options, Result, Target, say
from pipeline_losses import LENGTH, MICROBATCH, RATE, Size, loss_gap, prepared, spec

from peer.supervisor import Fields, Worker
from peer.tensors import Tensors

IN_FLIGHT = 4
TARGETS: dict[str, Target] = {
    "throughput_ratio": (">=", 0.8), "int8_bytes_per_element": ("<=", 1.07), "int8_loss_gap": ("<=", 0.005),
}  # fmt: skip
PATIENCE_S = 300.0


FULL = Size(
    layers=(3, 3), hidden=320, heads=5, vocabulary=1024, microbatches=32, turns=3, rounds=2, loss_steps=300
)  # fmt: skip
QUICK = Size(
    layers=(2, 2), hidden=128, heads=2, vocabulary=512, microbatches=8, turns=1, rounds=1, loss_steps=20
)  # fmt: skip


class Replica:
    """One worker that serves a stage."""

    def __init__(self, worker: Worker, tensors: Tensors, opened: Fields) -> None:
        """Use `replicas`."""
        self.worker, self.tensors = worker, tensors
        self.state: str = opened["state"]
        self.outside_s: list[float] = []
        """Of each pass, the time that the worker did not spend on it."""
        self.passes_s: list[float] = []
        """Of each pass, all of its time."""

    async def ask(self, do: str, given: dict[str, bytes], number: int, microbatch: int) -> bytes:
        """One pass."""
        started = time.perf_counter()
        async with self.tensors.slot() as slot:
            answer = await slot.call(
                self.worker, do, given, "reply",
                round=number, microbatch=microbatch, state=self.state, tokens=MICROBATCH * LENGTH,
            )  # fmt: skip
            assert answer["answer"] == "done", answer
            data = bytes(slot.reply())
        self.passes_s.append(time.perf_counter() - started)
        self.outside_s.append(self.passes_s[-1] - answer["took_us"] / 1e6)
        return data


@asynccontextmanager
async def replicas(run: Any, folder: Path) -> AsyncIterator[list[Replica]]:
    """A worker for each of two stages."""
    found: list[Replica] = []
    try:
        for stage in (0, 1):
            tensors = Tensors(IN_FLIGHT + 1)
            worker = await Worker.start(folder / f"stage {stage}", threads=1, device="cpu", tensors=tensors.descriptor)
            opened = await worker.call(
                "stage_open", config=run.spec.canonical(), model=str(run.paths["model"]), stage=stage,
                manifest=str(run.paths["manifest"]), shards=[str(path) for path in run.shard_paths],
                state=str(run.paths[f"state.{stage}"]), keep_passes=0 if stage else IN_FLIGHT,
            )  # fmt: skip
            tensors.hold(opened["tensor_bytes"])
            found.append(Replica(worker, tensors, opened))
        yield found
    finally:
        for replica in found:
            await replica.worker.close()
            replica.tensors.close()


async def one_round(pair: Sequence[Replica], number: int, microbatches: int, in_flight: int) -> None:
    """Drive, settle and apply a round."""
    first, last = pair
    start = number * microbatches * MICROBATCH
    for replica in pair:
        await replica.worker.call("stage_begin", round=number, start=start, microbatches=microbatches)
    free = asyncio.Semaphore(in_flight)

    async def drive(j: int) -> None:
        async with free:
            async with first.tensors.slot() as slot:
                at = start + j * MICROBATCH
                await slot.call(first.worker, "stage_read", {}, "reply", "targets", start=at)
                tokens, targets = bytes(slot.reply()), bytes(slot.reply("targets"))
            hidden = await first.ask("stage_forward", {"x": tokens}, number, j)
            gradient = await last.ask("stage_backward", {"x": hidden, "gradient": targets}, number, j)
            await first.ask("stage_backward", {"gradient": gradient}, number, j)

    async with asyncio.TaskGroup() as tasks:
        for j in range(microbatches):
            tasks.create_task(drive(j))
    everything = list(range(microbatches))
    written = await asyncio.gather(
        *(replica.worker.call("stage_write", round=number, manifest=everything) for replica in pair)
    )
    updates = [[{"path": one["update"], "tokens": one["tokens"]}] for one in written]
    settling = [
        {"state": replica.state, "updates": own, "tied": other}
        for replica, own, other in zip(pair, updates, updates[::-1], strict=True)
    ]
    normed = await asyncio.gather(
        *(replica.worker.call("stage_norm", **fields) for replica, fields in zip(pair, settling, strict=True))
    )
    norms = [one["norm"] for one in normed]
    applied = await asyncio.gather(
        *(
            replica.worker.call("stage_apply", round=number, norms=norms, **fields)
            for replica, fields in zip(pair, settling, strict=True)
        )
    )
    for replica, one in zip(pair, applied, strict=True):
        replica.state = one["state"]


def codec_s(size: Size, kind: Any) -> float:
    """Seconds to encode and to decode one microbatch's hidden values."""
    import torch

    from p2p_llm_forge.stages.activations import decode, encode

    hidden = torch.randn(MICROBATCH, LENGTH, size.hidden)
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        decode(encode(hidden, kind), kind, hidden.shape, "hidden")
        taken.append(time.perf_counter() - started)
    return median(taken)


async def ours_and_theirs(size: Size, folder: Path) -> dict[str, Any]:
    """Bursts of both in turns."""
    run = prepared(spec(size), folder / "run")
    sizes = {
        "threads": 1, "layers": sum(size.layers), "hidden": size.hidden, "heads": size.heads,
        "vocabulary": size.vocabulary, "length": LENGTH, "batch": MICROBATCH,
    }  # fmt: skip
    cut = ",".join(map(str, size.layers))
    words = [*plain.words(sizes, RATE), "--cut", cut, "--microbatches", str(size.microbatches)]
    tokens = size.microbatches * size.rounds * MICROBATCH * LENGTH
    ours: list[float] = []
    theirs: list[float] = []
    async with replicas(run, folder) as pair:
        with rivals.pair("pipeline", words, folder) as ranks:
            await one_round(pair, 1, size.microbatches, IN_FLIGHT)  # warms up
            await asyncio.to_thread(ranks.burst, 1, PATIENCE_S)
            number = 1
            for turn in range(size.turns):
                burst = await asyncio.to_thread(ranks.burst, size.rounds, PATIENCE_S)
                theirs.append(burst.tokens_per_s)
                started = time.perf_counter()
                for _ in range(size.rounds):
                    number += 1
                    await one_round(pair, number, size.microbatches, IN_FLIGHT)
                ours.append(tokens / (time.perf_counter() - started))
                say(f"turn {turn + 1}: {ours[-1]:,.0f} tokens/s, 1F1B {theirs[-1]:,.0f}")
        for replica in pair:
            replica.passes_s.clear()
            replica.outside_s.clear()
        await one_round(pair, number + 1, size.microbatches, 1)
        outside = sum(sum(replica.outside_s) for replica in pair)
        passes = sum(sum(replica.passes_s) for replica in pair)
    encoding = 2 * size.microbatches * codec_s(size, "bf16")  # hidden and gradient of each microbatch
    return {
        "throughput_ratio": round(median(one / other for one, other in zip(ours, theirs, strict=True)), 4),
        "tokens_per_s": round(median(ours), 1), "pipelining_tokens_per_s": round(median(theirs), 1),
        "transport_share": round((outside + encoding) / passes, 4),
        "parameters": run.parameters, "bursts": [round(speed, 1) for speed in ours],
        "pipelining_bursts": [round(speed, 1) for speed in theirs],
    }  # fmt: skip


def measure(options: Options) -> Result:
    """Speed, then losses."""
    import torch

    from p2p_llm_forge.stages.activations import encoded_bytes

    torch.set_num_threads(1)
    size = QUICK if options.quick else FULL
    metrics = asyncio.run(ours_and_theirs(size, options.folder))
    shape = (MICROBATCH, LENGTH, size.hidden)
    metrics |= {"int8_bytes_per_element": round(encoded_bytes("int8", shape) / (shape[0] * shape[1] * shape[2]), 5)}
    return Result(name="pipeline", metrics=metrics | loss_gap(size, options.folder / "losses"), targets=TARGETS)


def draw(result: Result, path: Path) -> None:
    """Tokens per second of both."""
    metrics = result.metrics
    found = {"two workers": metrics["tokens_per_s"], "1F1B, gloo": metrics["pipelining_tokens_per_s"]}
    with harness.new_figure(path, title=f"{metrics['parameters']:,} parameters in 2 stages") as axes:
        axes.bar(list(found), list(found.values()), color=harness.colours(len(found)))
        axes.set(ylabel="tokens/s")


if __name__ == "__main__":
    sys.exit(harness.main("pipeline", (__doc__ or "").split("\n")[0], measure, draw))
