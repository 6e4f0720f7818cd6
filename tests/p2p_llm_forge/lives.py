"""A member that dies at any line of what it carries, again and again, in forks of this process.

`python -m tests.p2p_llm_forge.lives OPEN FOLDER SEED …`: one story for each seed, and one JSON line that says how it
went. A life trains round after round with the real engine; at which line of the watched files it kills itself is drawn.
What it had said before was heard by the daemon, which settles some rounds, misses others, and may give up a round in
which the member died. Stories of even seeds die in the main thread only and give nothing up.

IO: forks; files below FOLDER.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import traceback
from concurrent import futures
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from p2p_llm_forge import codec
from p2p_llm_forge.blobs import blob_id
from p2p_llm_forge.engine import Engine
from p2p_llm_forge.protocol import Open, Settled

WATCHED = ("/carry.py", "/kept.py", "/blobs.py")
ROUNDS = 5
MOST_LINES = 2500  # A round has about 1,100.
SLOTS = 8


class Death:
    """Kills this process at a line of the watched files, counted over all watched threads."""

    def __init__(self, at: int, *, threads: bool) -> None:
        self._left = at
        self._lock = threading.Lock()
        if threads:
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


class Story:
    """What the daemon knows of one member."""

    def __init__(self, request: Open, folder: Path, fates: list[str]) -> None:
        self.request, self.folder = request, folder
        self.fates = fates
        """By round: settled, missed, or given up if the member dies in it."""
        self.round = 1
        self.updates: dict[int, str] = {}
        """Ids of those that were heard of."""
        self.carried: set[int] = set()
        """Rounds whose change is in what was sent or in the residual."""
        self.kills = 0
        (folder / "changes").mkdir(parents=True)

    def settled(self) -> list[Settled]:
        """What the log settled of this member."""
        heard = self.updates.items()
        return [Settled(round=number, update=update) for number, update in heard if self.fates[number] == "settled"]

    def live(self, death: int, *, threads: bool) -> None:
        """One life: to the last round, or to its death."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            try:
                self._life(death, writer, threads=threads)
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as lines:
            for line in lines:
                self.carried.add(self.round)
                self.updates[self.round] = line.strip()
                self.round += 1
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, "a life ended by a fault of its own"
        if os.WIFSIGNALED(status):
            self.kills += 1
            if self.round <= ROUNDS and self.fates[self.round] == "given up":
                if (self.folder / "kept" / f"residual-{self.round}.safetensors").exists():
                    self.carried.add(self.round)
                self.round += 1

    def _life(self, death: int, writer: int, *, threads: bool) -> None:
        engine = Engine(self.request, self.folder, torch.device("cpu"))
        change = engine.inner.change
        if death:
            Death(death, threads=threads)
        while self.round <= ROUNDS:
            engine.inner.change = lambda weights_P: self._note(change(weights_P))  # type: ignore[method-assign]
            reply = train(engine, self.round, self.settled())
            assert "notes" not in reply, reply
            data = Path(reply["update"]).read_bytes()
            self._sent(self.round).write_bytes(data)
            self.updates[self.round] = blob_id(data)
            if not threads and engine.kept.writing is not None:
                futures.wait([engine.kept.writing])  # So that it dies at a quiet point.
            os.write(writer, self.updates[self.round].encode() + b"\n")
            self.round += 1
        engine.kept.end()

    def _sent(self, number: int) -> Path:
        return self.folder / f"sent-{number}.update"

    def _note(self, change_P: torch.Tensor) -> torch.Tensor:
        path = self.folder / "changes" / f"{self.round}.npy"
        if path.exists() and not np.array_equal(np.load(path), change_P.numpy()):
            raise AssertionError(f"round {self.round} was trained again and changed something else")
        part = path.with_name("part.npy")
        np.save(part, change_P.numpy())
        part.rename(path)
        return change_P

    def amiss(self) -> float:
        """How far what was settled and what is left are from all changes that were carried, relative to them."""
        engine = Engine(self.request, self.folder, torch.device("cpu"))
        size = engine.layout.parameters
        engine.carry.recall(ROUNDS + 1)
        left_P = engine.carry.carried(ROUNDS + 1, self.settled())
        assert left_P is not None
        total_P = np.zeros(size)
        for number in self.carried:
            total_P += np.load(self.folder / "changes" / f"{number}.npy")
        found_P = left_P.double()
        for item in self.settled():
            sent_P = torch.zeros(size)
            update = codec.decode(self._sent(item.round).read_bytes(), engine.spec.training.codec, size)
            update.subtract_from(sent_P)
            found_P -= sent_P
        return float(np.abs(found_P.numpy() - total_P).max() / np.abs(total_P).max())


def train(engine: Engine, number: int, settled: list[Settled] | None) -> dict[str, Any]:
    """Train a round on slots of its own."""
    return engine.train(
        round_number=number, start=number * SLOTS, count=SLOTS, seconds=600.0,
        stopped=lambda: False, report=lambda *_: None, settled=settled,
    )  # fmt: skip


def tell(request: Open, folder: Path, seed: int) -> dict[str, Any]:
    """Live one story through; what came of it."""
    rng = random.Random(seed)
    quiet = seed % 2 == 0
    fates = ["", *rng.choices(["settled", "missed"] if quiet else ["settled", "missed", "given up"], k=ROUNDS)]
    story = Story(request, folder / str(seed), fates)
    while story.round <= ROUNDS:
        story.live(rng.randint(1, MOST_LINES // 2 if quiet else MOST_LINES), threads=not quiet)
    result = {"seed": seed, "kills": story.kills, "amiss": story.amiss()}
    if quiet:
        calm = Story(request, folder / f"{seed}-calm", fates)
        calm.live(0, threads=False)
        result["same"] = calm.updates == story.updates
    return result


def main(arguments: list[str]) -> None:
    """Tell all stories."""
    torch.set_num_threads(1)
    request = Open.model_validate_json(Path(arguments[0]).read_bytes())
    for seed in arguments[2:]:
        print(json.dumps(tell(request, Path(arguments[1]), int(seed))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
