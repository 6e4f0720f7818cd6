"""Processes that check logs side by side: each reads the store by itself and tells what it finds.

A worker is a program (`python -m ledger.verify.workers`) that gets jobs on its standard input and answers on its
standard output, in `frames`. It ends when its input does, so none outlives who started it.

IO: starts processes; a worker reads one store.
"""

import fcntl
import gc
import os
import selectors
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ledger import keys
from ledger.errors import LedgerError, StoreUnreadable
from ledger.genesis import Genesis
from ledger.store.database import Database

from . import frames
from .frames import Frame, PartReader, PartWriter
from .report import Fault
from .survey import Survey, check_all, survey
from .tasks import Checked, Part, Task

_READ = 1 << 18
_BUNDLE = 16
"""Parts that are told at once."""


class Workers:
    """Worker processes on one store; use as a context, which ends them however it is left."""

    def __init__(self, path: Path, genesis: Genesis, count: int) -> None:
        self.count = count
        """How many there are."""
        self._path = path
        self._processes: list[subprocess.Popen[bytes]] = []
        package = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])}
        hello = {"path": str(path.absolute()), "genesis": genesis.encode().decode(), "keys": genesis.keys}
        try:
            for _ in range(count):
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-m", "ledger.verify.workers"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment,
                    )
                )  # fmt: skip
            for place in range(count):  # once all are starting: it waits until they read
                self._tell(place, hello)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they do."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            process.wait()

    def survey(self, shares: Sequence[Mapping[int, int]]) -> Survey:
        """Have each worker look over a share of the logs."""
        for place, share in enumerate(shares):
            self._tell(place, {"survey": list(share.items())})
        found = Survey()
        for _, (message, rows) in self._answers():
            entries = {row: count for row, count, _ in message["logs"]}
            lengths = {row: length for row, _, length in message["logs"]}
            sizes = _slices(rows, [many for _, many in message["asked"]])
            asked = {origin: next(sizes) for origin, _ in message["asked"]}
            found.add(Survey(entries=entries, bytes=lengths, asked=asked))
        return found

    def check(self, shares: Sequence[Sequence[Task]]) -> Iterator[Part | Checked]:
        """Have each worker check a share of the logs; what they find, as they find it."""
        for place, share in enumerate(shares):
            tasks = [{**vars(task), "asked": len(task.asked)} for task in share]
            self._tell(place, {"check": tasks}, b"".join(task.asked.tobytes() for task in share))
        readers = [PartReader() for _ in shares]
        for place, frame in self._answers():
            yield from readers[place].parts(frame)
            for body in frame[0]["checked"]:
                fault = body["fault"]
                if fault is not None:
                    fault = Fault(**{**fault, "further": tuple(fault["further"])})
                yield Checked(**{**body, "fault": fault})

    def _tell(self, place: int, message: object, rows: bytes = b"") -> None:
        stream = self._processes[place].stdin
        assert stream is not None
        try:
            frames.write(stream, message, rows)
        except BrokenPipeError as exc:
            raise self._ended(place) from exc

    def _answers(self) -> Iterator[tuple[int, Frame]]:
        """Frames of all workers, each with its worker's place, until each said that its job is done."""
        with selectors.DefaultSelector() as selector:
            for place, process in enumerate(self._processes):
                assert process.stdout is not None
                with suppress(OSError):  # a larger pipe lets a worker run ahead
                    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 1 << 20)
                selector.register(process.stdout, selectors.EVENT_READ, (place, bytearray()))
            while selector.get_map():
                for key, _ in selector.select():
                    place, buffer = key.data
                    data = os.read(key.fd, _READ)
                    if not data:
                        raise self._ended(place)
                    buffer += data
                    for frame in frames.take(buffer):
                        if "error" in frame[0]:
                            raise StoreUnreadable(frame[0]["error"])
                        yield place, frame
                        if frame[0]["last"]:
                            selector.unregister(key.fileobj)

    def _ended(self, place: int) -> StoreUnreadable:
        status = self._processes[place].wait()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return StoreUnreadable(f"{self._path}: a process that verified it ended early ({how}); run it again")


def _slices(rows: bytes, counts: Iterable[int]) -> "Iterator[array[int]]":
    """The numbers in these rows, so many at a time."""
    numbers, start = array("q"), 0
    numbers.frombytes(rows)
    for count in counts:
        yield numbers[start : start + count]
        start += count


def _check(stream: BinaryIO, database: Database, genesis: Genesis, tasks: Sequence[Task]) -> None:
    """Check logs and tell what is found."""
    parts = PartWriter()
    checked: list[dict[str, Any]] = []

    def tell(last: bool) -> None:
        told, rows = parts.frame()
        frames.write(stream, {**told, "checked": checked, "last": last}, rows)
        checked.clear()

    for found in check_all(database, genesis, tasks):
        if isinstance(found, Part):
            parts.add(found)
            if parts.count >= _BUNDLE:
                tell(False)
        else:
            checked.append(asdict(found))
    tell(True)


def _survey(stream: BinaryIO, database: Database, certified: Mapping[int, int]) -> None:
    """Look over logs and tell what is found."""
    found = survey(database, certified)
    logs = [(row, count, found.bytes[row]) for row, count in found.entries.items()]
    asked = [(origin, len(sizes)) for origin, sizes in found.asked.items()]
    rows = b"".join(sizes.tobytes() for sizes in found.asked.values())
    frames.write(stream, {"logs": logs, "asked": asked, "last": True}, rows)


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """What a worker does until its input ends."""
    jobs = frames.read(stdin)
    hello, _ = next(jobs, ({}, b""))
    if not hello:
        return
    keys.take_as_checked(hello["keys"])  # by who started this
    genesis = Genesis.parse(hello["genesis"].encode())
    try:
        database = Database.open(Path(hello["path"]), read_only=True)
        with database.snapshot():
            genesis.check_same(database.meta("genesis"), hello["path"])
            for job, rows in jobs:
                if "survey" in job:
                    _survey(stdout, database, dict(job["survey"]))
                else:
                    asked = _slices(rows, [body["asked"] for body in job["check"]])
                    _check(stdout, database, genesis, [Task(**{**body, "asked": next(asked)}) for body in job["check"]])
    except LedgerError as exc:
        frames.write(stdout, {"error": exc.message, "last": True})


def main() -> None:
    """A worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    gc.disable()  # nothing here makes cycles, and it lives for one verification
    with suppress(BrokenPipeError), os.fdopen(1, "wb", buffering=0, closefd=False) as stdout:
        serve(sys.stdin.buffer, stdout)


if __name__ == "__main__":
    main()
