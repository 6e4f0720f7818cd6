"""A member that dies at any line of what it carries, again and again, in forks of this process.

`python -m tests.p2p_llm_forge.lives FOLDER ROUNDS SEED …` with FOLDER/open.json: one story for each seed, and one JSON
line that says how it went. A life trains round after round with the real engine; the line at which it kills itself is
drawn. What it printed before counts as heard by the daemon, which settles some rounds, misses others and skips a few.

IO: forks; files below FOLDER.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from p2p_llm_forge import codec
from p2p_llm_forge.blobs import blob_id
from p2p_llm_forge.engine import Engine
from p2p_llm_forge.protocol import Open, Settled, parse

WATCHED = ("/carry.py", "/kept.py", "/blobs.py")
SLOTS = 4


class Death:
    """Kills this process at a line of the watched files, counted over all threads."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._lock = threading.Lock()

    def watch(self) -> None:
        """From now on, here and in threads to come."""
        threading.settrace(self.trace)
        sys.settrace(self.trace)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """A trace function."""
        if not frame.f_code.co_filename.endswith(WATCHED):
            return None
        with self._lock:
            self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.trace


@dataclass(kw_only=True)
class Story:
    """What the daemon knows, and what each training changed."""

    request: Open
    folder: Path
    rounds: int
    settled: list[Settled] = field(default_factory=list)
    sent: list[Path] = field(default_factory=list)
    round: int = 1
    kills: int = 0

    def live(self, death: int, fates: list[str]) -> None:
        """One life: to its end, or to its death."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            try:
                self._life(death, fates, writer)
            finally:
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as lines:
            for line in lines:
                self._hear(json.loads(line), fates)
        if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            self.kills += 1
            if self.round <= self.rounds and fates[self.round] == "skipped":
                self.round += 1

    def _life(self, death: int, fates: list[str], writer: int) -> None:
        engine = Engine(self.request, self.folder, torch.device("cpu"))
        changes = self.folder / "changes"
        changes.mkdir(exist_ok=True)
        change = engine.inner.change
        settled = list(self.settled)
        if death:
            Death(death).watch()
        for number in range(self.round, self.rounds + 1):

            def changed(weights_P: torch.Tensor, name: int = number) -> torch.Tensor:
                change_P = change(weights_P)
                np.save(changes / f"{name}.npy", change_P.numpy())
                return change_P

            engine.inner.change = changed  # type: ignore[method-assign]
            reply = train(engine, number, settled)
            os.write(writer, json.dumps(reply).encode() + b"\n")
            if fates[number] == "settled":
                settled.append(Settled(round=number, update=name_of(reply)))
        engine.kept.wait()
        os._exit(0)

    def _hear(self, reply: dict[str, Any], fates: list[str]) -> None:
        assert reply["slots"] == SLOTS
        if fates[self.round] == "settled":
            self.settled.append(Settled(round=self.round, update=name_of(reply)))
            copy = self.folder / f"sent-{self.round}"
            copy.unlink(missing_ok=True)
            os.link(reply["update"], copy)
            self.sent.append(copy)
        self.round += 1

    def missing(self, engine: Engine) -> float:
        """How far what was sent and what is left are from all changes that were carried, relative to these."""
        carried = [
            int(path.stem)
            for path in (self.folder / "changes").iterdir()
            if int(path.stem) in self.known
        ]
        total = sum(np.load(self.folder / "changes" / f"{number}.npy").astype(np.float64) for number in carried)
        spec, size = engine.spec.training.codec, engine.layout.parameters
        left = torch.zeros(size)
        rest = engine.carry
        rest.recall(self.rounds + 1)
        carried_P = rest.carried(self.rounds + 1, self.settled)
        if carried_P is not None:
            left = carried_P
        found = left.double()
        for path in self.sent:
            update = codec.decode(path.read_bytes(), spec, size)
            blank = torch.zeros(size)
            update.subtract_from(blank)
            found -= blank.double()
        return float((found - torch.from_numpy(total)).abs().max() / np.abs(total).max())
