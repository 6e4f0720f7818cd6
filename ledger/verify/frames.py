"""What processes that verify together tell each other: frames of a little JSON and much in rows of numbers.

A frame is two lengths as u32be, that many bytes of JSON, that many bytes of rows. Both ends are this program on this
machine, so numbers are as it holds them.

IO: writes the stream it is given.
"""

import json
import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, Any, BinaryIO

from ledger.fold.effects import Broken, Claim, Effect, Finish, Gives, Make, Pay, Reserve, Start

from .tasks import Part

_KINDS: tuple[type[Any], ...] = (Gives, Claim, Make, Start, Reserve, Pay, Finish, Broken)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_GIVES, _CLAIM = _CODES[Gives], _CODES[Claim]
_LENGTHS = struct.Struct(">II")
_ROOT = 32

Frame = tuple[dict[str, Any], bytes]
"""What was told: an object, and rows."""


def write(stream: IO[bytes], message: object, rows: bytes = b"") -> None:
    """Write a frame, whole, even to a stream that takes less at once."""
    body = json.dumps(message, separators=(",", ":")).encode()
    for data in (_LENGTHS.pack(len(body), len(rows)) + body, rows):
        view = memoryview(data)
        while view:
            view = view[stream.write(view) :]


def read(stream: BinaryIO) -> Iterator[Frame]:
    """The frames of a stream that blocks, until it ends."""
    while len(head := stream.read(_LENGTHS.size)) == _LENGTHS.size:
        body, rows = _LENGTHS.unpack(head)
        yield json.loads(stream.read(body)), stream.read(rows)


def take(buffer: bytearray) -> Iterator[Frame]:
    """The whole frames at the start of the buffer, which are taken out of it."""
    while len(buffer) >= _LENGTHS.size:
        body, rows = _LENGTHS.unpack_from(buffer)
        middle = _LENGTHS.size + body
        if len(buffer) < middle + rows:
            return
        frame = json.loads(bytes(buffer[_LENGTHS.size : middle])), bytes(buffer[middle : middle + rows])
        del buffer[: middle + rows]
        yield frame


class PartWriter:
    """Parts on their way to who folds them, without memos; strings that come often are told once and then by number."""

    def __init__(self) -> None:
        self.count = 0
        """Parts since `frame`."""
        self._names: dict[str, int] = {}
        self._told = 0  # names
        self._clear()

    def _clear(self) -> None:
        self.count, self._numbers, self._roots, self._others = 0, array("q"), bytearray(), list[Effect]()

    def add(self, part: Part) -> None:
        """Add a part."""
        names, put = self._names, self._numbers.extend
        self.count += 1
        put((part.number, part.rows, part.size, len(part.roots), len(part.effects)))
        put([size for size, _ in part.roots])
        self._roots += b"".join([root for _, root in part.roots])
        for effect in part.effects:
            if type(effect) is Gives:
                _, entries, to, amounts = effect
                put((_GIVES, len(entries), *entries, *amounts))
                put([names.setdefault(payee, len(names)) for payee in to])
            elif type(effect) is Claim:
                index, origin, upto, size, root = effect
                put((_CLAIM, index, names.setdefault(origin, len(names)), upto, size))
                self._roots += root
            else:
                put((_CODES[type(effect)],))
                self._others.append(effect)

    def frame(self) -> Frame:
        """All parts since the last time."""
        names = list(islice(self._names, self._told, None))
        self._told = len(self._names)
        told = {"names": names, "parts": self.count, "numbers": len(self._numbers), "others": self._others}
        rows = self._numbers.tobytes() + self._roots
        self._clear()
        return told, rows


class PartReader:
    """The other end of one `PartWriter`."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def parts(self, frame: Frame) -> Iterator[Part]:
        """The parts of a frame."""
        told, rows = frame
        self._names += told["names"]
        split = told["numbers"] * array("q").itemsize
        values, others, place = array("q"), iter(told["others"]), 0
        values.frombytes(rows[:split])
        roots = (rows[at : at + _ROOT] for at in range(split, len(rows), _ROOT))
        for _ in range(told["parts"]):
            number, read, size, many, effects = values[place : place + 5]
            place += 5 + many
            part = Part(number=number, rows=read, size=size)
            part.roots = list(zip(values[place - many : place], islice(roots, many), strict=True))
            for _ in range(effects):
                effect, place = self._effect(values, place, roots, others)
                part.effects.append(effect)
            yield part

    def _effect(
        self, values: Sequence[int], at: int, roots: Iterator[bytes], others: Iterator[list[Any]]
    ) -> tuple[Effect, int]:
        """The effect that begins at `at`, and where the next one does."""
        code = values[at]
        if code == _GIVES:
            many = values[at + 1]
            entries = at + 2
            amounts = entries + many
            to = amounts + many
            names = self._names
            payees = [names[number] for number in values[to : to + many]]
            return Gives(values[entries], values[entries:amounts], payees, values[amounts:to]), to + many
        if code == _CLAIM:
            index, origin, upto, size = values[at + 1 : at + 5]
            return Claim(index, self._names[origin], upto, size, next(roots)), at + 5
        kind: type[Any] = _KINDS[code]
        return kind(*next(others)), at + 1
