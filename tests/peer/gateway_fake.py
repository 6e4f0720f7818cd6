"""A node that remembers what it was asked, and its gateway on a unix socket in a thread with its own event loop.

IO: a thread and a unix socket.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peer.errors import RunError
from peer.gateway.app import serve

RUN_A, RUN_B = "a1" * 32, "a2" * 32
ME = "0f" * 32
EVENTS = [
    {"event": "submitted", "time": 1, "run": RUN_A, "name": "tiny"},
    {"event": "opened", "time": 2, "round": 1, "members": [ME], "state": "s0"},
    {"event": "receipt", "time": 3, "round": 1, "account": ME, "loss": 3.25, "tokens": 640},
    {"event": "settled", "time": 4, "round": 1, "state": "s1", "loss": 3.25, "validation": 3.5, "members": 1,
     "tokens": 640, "tokens_per_s": 320.0, "credits": 12, "seconds": 2.0},
    {"event": "closed", "time": 5, "state": "s1", "reason": "finished", "rounds": 1},
]  # fmt: skip


class FakeNode:
    """Two runs; the first is over, the second never ends."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.stopping = threading.Event()

    async def status(self) -> dict[str, Any]:
        addresses = ["/ip4/127.0.0.1/tcp/1/p2p/12D3"]
        return {"account": ME, "peer_id": "12D3", "network": "test", "addresses": addresses, "runs": 2}

    async def peers(self) -> list[dict[str, Any]]:
        return [{"account": ME, "peer_id": "12D3", "tflops": 0.1, "memory_bytes": 1 << 30, "device": "cpu"}]

    async def witnesses(self) -> list[dict[str, Any]]:
        return [{"name": "witness-1", "peer_id": "12D3", "problem": ""}]

    async def submit(
        self, spec: dict[str, Any], leaders: list[str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        self.asked.append(("submit", spec, *([leaders] if leaders is not None else [])))
        yield {"event": "progress", "phase": "tokenize", "done": 1, "total": 2}
        if spec.get("name") == "broken":
            raise RunError("FP-402", "the run cannot start", "mend it")
        yield {"event": "submitted", "run": RUN_A, "name": spec.get("name")}

    async def jobs(self) -> list[dict[str, Any]]:
        return [
            {"run": RUN_A, "name": "tiny", "phase": "closed", "round": 1, "rounds": 1},
            {"run": RUN_B, "name": "big", "phase": "running", "round": 1, "rounds": 9},
        ]

    async def job(self, run: str) -> dict[str, Any]:
        return next(job for job in await self.jobs() if job["run"] == run) | {"state": "s1"}

    async def events(self, run: str, follow: bool) -> AsyncIterator[dict[str, Any]]:
        for event in EVENTS[:-1] if run == RUN_B else EVENTS:
            yield event
        if follow and run == RUN_B:
            await asyncio.Event().wait()

    async def cancel(self, run: str) -> dict[str, Any]:
        raise RunError("FP-405", "only its leader may cancel a run", "ask the leader")

    async def export(self, run: str, to: str, round_number: int | None = None) -> dict[str, Any]:
        self.asked.append(("export", run, to, round_number))
        return {"folder": to, "files": ["model.safetensors"]}

    async def generate(self, run: str, **how: Any) -> dict[str, Any]:
        self.asked.append(("generate", run, how))
        return {"text": " and so on"}

    async def balance(self, account: str) -> dict[str, Any]:
        return {"account": ME if account == "me" else account, "balance": 1_500_000, "claimable": 0}

    async def pause(self, seconds: float | None) -> dict[str, Any]:
        self.asked.append(("pause", seconds))
        return {"paused": {"since": 1000.0, "until": None if seconds is None else 1000.0 + seconds}}

    async def resume(self) -> dict[str, Any]:
        self.asked.append(("resume",))
        return {"resumed": int(len(self.asked) == 1)}

    async def shutdown(self) -> None:
        self.stopping.set()


@contextmanager
def running_gateway(home: Path, node: FakeNode | None = None) -> Iterator[FakeNode]:
    """The gateway of a fake node, until the block ends."""
    node = node or FakeNode()
    ready, loops = threading.Event(), []
    done = asyncio.Event()

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        async with serve(node, home):  # type: ignore[arg-type]
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(10)
    try:
        yield node
    finally:
        loops[0].call_soon_threadsafe(done.set)
        thread.join(10)
        assert not thread.is_alive()
