"""From a run spec and a corpus to a run: prepare the blobs, name the run, fund it, start its log.

IO: a worker process that tokenizes, the blob store, the ledger replica, the run's folder.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.entries import run_id
from ledger.spec import MAX_LEADERS
from p2p_llm_forge.config import default_price
from peer.blobs.store import BlobStore
from peer.errors import RunError
from peer.ledger.credits import Credits, nonce
from peer.ledger.logs import Logs
from peer.runs.figures import most_seats, plan_of, stage_plan_of
from peer.runs.hardware import Hardware
from peer.runs.run import Run
from peer.supervisor import Fields, Worker

MICRO = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Submitter:
    """What turning a spec into a run needs."""

    home: Path
    store: BlobStore
    logs: Logs
    credits: Credits
    hardware: Hardware
    memories: Callable[[], list[int]]
    """Bytes of memory of each peer that is known."""

    async def submit(self, spec: Fields, leaders: Sequence[str] = ()) -> AsyncIterator[Fields]:
        """Prepare and begin a run, which `leaders` may lead when we do not, in this order; yields progress events,
        last {"event": "submitted", "run", "name", "budget"}.

        Raises:
            WorkerRefused: the spec, the corpus or the model cannot be used; the reason names the place.
            RunError: our account cannot pay for it.
        """
        folder = self.home / "runs" / f".prepare-{secrets.token_hex(8)}"
        try:
            prepared: Fields = {}
            async for event in self._prepare(spec, folder):
                if event["event"] == "prepared":
                    prepared = event["ok"]
                else:
                    yield event
            yield await self._begin(prepared, leaders)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    async def _prepare(self, spec: Fields, folder: Path) -> AsyncIterator[Fields]:
        """Have a worker of its own write everything that members need into `folder`."""
        events: asyncio.Queue[Fields] = asyncio.Queue()
        peers = {"peers_bytes": self.memories()} if spec.get("pipeline") or spec.get("experts") else {}
        worker = await Worker.start(folder, threads=self.hardware.threads, device="cpu")
        try:
            call = asyncio.create_task(
                worker.call("prepare", spec=spec, out=str(folder / "out"), on_event=events.put_nowait, **peers)
            )
            call.add_done_callback(lambda _: events.put_nowait({"event": "done"}))
            while (event := await events.get())["event"] != "done":
                yield event
            yield {"event": "prepared", "ok": await call}
        finally:
            await worker.close()

    async def _begin(self, prepared: Fields, leaders: Sequence[str]) -> Fields:
        """Name the run by its spec, then fund it and start its log."""
        spec = await self._spec(prepared, leaders)
        run = run_id(spec)
        created = Run.create(run=run, home=self.home, logs=self.logs, spec=spec)
        await created.journal.add("submitted", run=run, name=created.name, budget=spec["budget"])
        await begin(self.credits, created)
        return {"event": "submitted", "run": run, "name": created.name, "budget": spec["budget"]}

    async def _spec(self, prepared: Fields, leaders: Sequence[str]) -> Fields:
        """The run's spec, once its blobs are kept and we can pay for it."""
        config = prepared["config"]
        spec: Fields = {
            "version": 1,
            "name": config["name"],
            "submitter": self.logs.account.public,
            "leaders": list(dict.fromkeys([self.logs.account.public, *leaders]))[:MAX_LEADERS],
            "price": _price(config, int(prepared["parameters"])),
            "tokens_per_slot": prepared["tokens_per_slot"],
            "slots_per_epoch": prepared["slots_per_epoch"],
            "rounds": int(config["training"]["rounds"]),
            "nonce": nonce(),
            "config": config,
            "blobs": await self._keep(prepared),
            "parameters": prepared["parameters"],
        }
        if "stages" in prepared:
            spec |= {"stages": prepared["stages"], "needs_bytes": prepared["needs_bytes"]}
        plan = plan_of(spec, run="", network=self.logs.genesis.id)
        seats = most_seats(plan, stage_plan_of(spec, plan))
        budget = _budget(config, plan.rounds * seats * plan.worth(plan.quota))
        await self.credits.require(budget)
        least = 1 if "stages" in spec else plan.min_members
        if plan.seats_for(budget) < least:
            raise RunError(
                "FP-432",
                f"credits.budget: {budget} micro-credits do not pay one round of {least} members, "
                f"which is {least * plan.worth(plan.quota)}",
                "raise credits.budget, or lower price, inner_steps or batch_size",
            )
        return {**spec, "budget": budget}

    async def _keep(self, prepared: Fields) -> dict[str, str]:
        """Move what was prepared into the blob store; the ids are computed again here."""
        files, named = prepared["blobs"], prepared["ids"]
        for shard, wanted in zip(files["shards"], named["shards"], strict=True):
            await self._add(Path(shard), wanted)
        for name in [name for name in files if name.startswith("state.")]:
            await self._add(Path(files[name]), named[name])  # of a model that is cut; its own state is these
        whole = {"state": str(named["state"])} if "state" not in files else {}
        return whole | {
            name: await self._add(Path(files[name]), named[name])
            for name in ("model", "tokenizer", "manifest", "state") if name not in whole
        }  # fmt: skip

    async def _add(self, path: Path, wanted: str) -> str:
        got = await self.store.add_file(path)
        if got != wanted:
            raise RunError("FP-408", f"{path.name}: its blob id is {got}, the worker named {wanted}")
        return got


async def begin(credits: Credits, run: Run) -> None:
    """Start and fund the run's log, if we submitted it; after a crash it goes on where it was."""
    await credits.begin(run.id, run.spec, int(run.spec["budget"]))


def _price(config: Fields, parameters: int) -> int:
    """micro-credits per million tokens: what the spec says, or what the model's training FLOPs are worth."""
    price = config.get("credits", {}).get("price")
    return int(price) if price is not None else default_price(parameters)


def _budget(config: Fields, most: int) -> int:
    """Micro-credits to set aside: what the spec says (in credits), or what all rounds with all seats can cost."""
    budget = config.get("credits", {}).get("budget")
    return round(float(budget) * MICRO) if budget is not None else most
