"""Processes that check logs side by side: each reads the store by itself and tells what it finds.

A worker is a program (`python -m ledger.workers`) that gets jobs on its standard input and answers on its standard
output, in frames of a length and JSON. It ends when its input does, so none outlives who started it.

IO: starts processes; a worker reads one store.
"""

import fcntl
import gc
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ledger.errors import LedgerError, StoreUnreadable
from ledger.fold.effects import Broken, Claim, Effect, Finish, Gives, Make, Pay, Reserve, Start
from ledger.genesis import Genesis
from ledger.store.database import Database

from .report import Fault
from .survey import Survey, check_all, survey
from .tasks import Checked, Part, Task

_KINDS: tuple[type[Any], ...] = (Gives, Claim, Make, Start, Reserve, Pay, Finish, Broken)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_LENGTH = struct.Struct(">I")
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
        hello = {"path": str(path.absolute()), "genesis": genesis.encode().decode()}
        try:
            for place in range(count):
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-m", "ledger.verify.workers"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment,
                    )
                )  # fmt: skip
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
        for _, message in self._answers():
            entries, lengths = ({int(row): count for row, count in message[name]} for name in ("entries", "bytes"))
            asked = {origin: array("q", sizes) for origin, sizes in message["asked"].items()}
            found.add(Survey(entries=entries, bytes=lengths, asked=asked))
        return found

    def check(self, shares: Sequence[Sequence[Task]]) -> Iterator[Part | Checked]:
        """Have each worker check a share of the logs; what they find, as they find it."""
        known: list[list[str]] = [[] for _ in shares]  # by worker: strings that it speaks of by number
        for place, share in enumerate(shares):
            self._tell(place, {"check": [{**vars(task), "asked": list(task.asked)} for task in share]})
        for place, message in self._answers():
            names = known[place]
            names += message["names"]
            for item in message["parts"]:
                yield _part(item, names)
            for body in message["checked"]:
                fault = body["fault"]
                if fault is not None:
                    fault = Fault(**{**fault, "further": tuple(fault["further"])})
                yield Checked(**{**body, "fault": fault})

    def _tell(self, place: int, message: object) -> None:
        stream = self._processes[place].stdin
        assert stream is not None
        try:
            _write(stream, message)
        except BrokenPipeError as exc:
            raise self._ended(place) from exc

    def _answers(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Messages of all workers, each with its worker's place, until each said that its job is done."""
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
                    for message in _frames(buffer):
                        if "error" in message:
                            raise StoreUnreadable(message["error"])
                        yield place, message
                        if message["last"]:
                            selector.unregister(key.fileobj)

    def _ended(self, place: int) -> StoreUnreadable:
        status = self._processes[place].wait()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return StoreUnreadable(f"{self._path}: a process that verified it ended early ({how}); run it again")


def _frames(buffer: bytearray) -> Iterator[dict[str, Any]]:
    """The whole frames at the start of the buffer, which are taken out of it."""
    while len(buffer) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            return
        message = json.loads(bytes(buffer[_LENGTH.size : end]))
        del buffer[:end]
        yield message


def _write(stream: BinaryIO | Any, message: object) -> None:
    data = json.dumps(message, separators=(",", ":")).encode()
    view = memoryview(_LENGTH.pack(len(data)) + data)
    while view:
        view = view[stream.write(view) :]


def _part(item: list[Any], names: Sequence[str]) -> Part:
    """A part as `_flat` wrote it."""
    number, rows, size, roots, flat = item
    effects: list[Effect] = []
    at, end = 0, len(flat)
    while at < end:
        code = flat[at]
        if code == 0:
            first, many = at + 2, flat[at + 1]
            at = first + 3 * many
            entries, to = flat[first : first + many], flat[first + many : first + 2 * many]
            effects.append(Gives(entries[0], entries, [names[number] for number in to], flat[first + 2 * many : at]))
        elif code == 1:
            effects.append(Claim(flat[at + 1], names[flat[at + 2]], flat[at + 3], flat[at + 4], flat[at + 5]))
            at += 6
        else:
            kind = _KINDS[code]
            after = at + 1 + len(kind._fields)
            effects.append(kind(*flat[at + 1 : after]))
            at = after
    return Part(number=number, rows=rows, size=size, effects=effects, roots=[(size, root) for size, root in roots])


def _flat(part: Part, numbers: dict[str, int]) -> list[Any]:
    """A part as JSON can tell it quickly: numbers for the strings that come often, and no memos."""
    flat: list[Any] = []
    for effect in part.effects:
        if type(effect) is Gives:
            _, entries, to, amounts = effect
            flat += (0, len(entries), *entries)
            flat += [numbers.setdefault(payee, len(numbers)) for payee in to]
            flat += amounts
        elif type(effect) is Claim:
            index, origin, upto, size, root = effect
            flat += (1, index, numbers.setdefault(origin, len(numbers)), upto, size, root)
        else:
            flat += (_CODES[type(effect)], *effect)
    return [part.number, part.rows, part.size, part.roots, flat]


def _check(stream: BinaryIO, database: Database, genesis: Genesis, tasks: Sequence[Task]) -> None:
    """Check logs and tell what is found."""
    numbers: dict[str, int] = {}
    parts: list[list[Any]] = []
    checked: list[dict[str, Any]] = []
    told = 0

    def tell(last: bool) -> None:
        nonlocal told
        names = list(islice(numbers, told, None))
        told = len(numbers)
        _write(stream, {"names": names, "parts": parts, "checked": checked, "last": last})
        parts.clear()
        checked.clear()

    for found in check_all(database, genesis, tasks):
        if isinstance(found, Part):
            parts.append(_flat(found, numbers))
            if len(parts) >= _BUNDLE:
                tell(False)
        else:
            checked.append(asdict(found))
    tell(True)


def serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """What a worker does until its input ends."""
    jobs = _jobs(stdin)
    hello = next(jobs, None)
    if hello is None:
        return
    genesis = Genesis.parse(hello["genesis"].encode())
    try:
        database = Database.open(Path(hello["path"]), read_only=True)
        with database.snapshot():
            genesis.check_same(database.meta("genesis"), hello["path"])
            for job in jobs:
                if "survey" in job:
                    found = survey(database, dict(job["survey"]))
                    asked = {origin: list(sizes) for origin, sizes in found.asked.items()}
                    entries, lengths = list(found.entries.items()), list(found.bytes.items())
                    _write(stdout, {"entries": entries, "bytes": lengths, "asked": asked, "last": True})
                else:
                    tasks = [Task(**{**body, "asked": array("q", body["asked"])}) for body in job["check"]]
                    _check(stdout, database, genesis, tasks)
    except LedgerError as exc:
        _write(stdout, {"error": exc.message, "last": True})


def _jobs(stdin: BinaryIO) -> Iterator[dict[str, Any]]:
    while len(head := stdin.read(_LENGTH.size)) == _LENGTH.size:
        yield json.loads(stdin.read(_LENGTH.unpack(head)[0]))


def main() -> None:
    """A worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    gc.disable()  # nothing here makes cycles, and it lives for one verification
    with suppress(BrokenPipeError), os.fdopen(1, "wb", buffering=0, closefd=False) as stdout:
        serve(sys.stdin.buffer, stdout)


if __name__ == "__main__":
    main()
