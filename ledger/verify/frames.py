"""What processes that verify together tell each other: frames of a little JSON and much in rows of numbers.

A frame is two lengths as u32be, that many bytes of JSON, that many bytes of rows. Both ends are this program on this
machine, so numbers are as it holds them.

IO: writes the stream it is given.
"""

import json
import struct
from array import array
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any, BinaryIO

from ledger.fold.effects import Broken, Claim, Effect, Finish, Give, Gives, Make, Pay, Reserve, Start

from .tasks import Part

_KINDS: tuple[type[Any], ...] = (Gives, Claim, Give, Make, Start, Reserve, Pay, Finish, Broken)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_GIVES, _CLAIM = _CODES[Gives], _CODES[Claim]
_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_LENGTHS = struct.Struct(">II")
_ROOT = 32
_HEADER = 7

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
        self.count, self._numbers, self._roots, self._texts = 0, array("q"), bytearray(), bytearray()

    def add(self, part: Part) -> None:
        """Add a part."""
        names, roots, texts, numbers = self._names, self._roots, self._texts, array("q")
        put, claims, before = numbers.extend, 0, len(texts)
        roots += b"".join([root for _, root in part.roots])
        for effect in part.effects:
            if type(effect) is Gives:
                put((_GIVES, effect.entry, len(effect.owed)))
                for payee, due in effect.owed.items():
                    put((names.setdefault(payee, len(names)), len(due)))
                    put(due)
            elif type(effect) is Claim:
                index, origin, upto, size, root = effect
                put((_CLAIM, index, names.setdefault(origin, len(names)), upto, size))
                roots += root
                claims += 1
            else:
                text = _dump(effect).encode()
                put((_CODES[type(effect)], len(text)))
                texts += text
        header = (part.number, part.rows, part.size, len(part.roots), len(numbers), claims, len(texts) - before)
        self._numbers.extend(header)
        self._numbers.extend([size for size, _ in part.roots])
        self._numbers.extend(numbers)
        self.count += 1

    def frame(self) -> Frame:
        """All parts since the last time."""
        names = list(islice(self._names, self._told, None))
        self._told = len(self._names)
        told = {"names": names, "parts": self.count, "numbers": len(self._numbers), "roots": len(self._roots)}
        rows = b"".join((self._numbers.tobytes(), self._roots, self._texts))
        self._clear()
        return told, rows


class PartReader:
    """The other end of one `PartWriter`."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def parts(self, frame: Frame) -> Iterator[Part]:
        """The parts of a frame; their effects are made one by one, as they are asked for."""
        told, rows = frame
        self._names += told["names"]
        values, place, root = array("q"), 0, told["numbers"] * array("q").itemsize
        text = root + told["roots"]
        values.frombytes(rows[:root])
        for _ in range(told["parts"]):
            number, read, size, many, length, claims, letters = values[place : place + _HEADER]
            start = place + _HEADER + many
            part = Part(number=number, rows=read, size=size)
            for asked in values[place + _HEADER : start]:
                part.roots.append((asked, rows[root : root + _ROOT]))
                root += _ROOT
            place, claimed, told_so = start + length, root, text
            root, text = root + _ROOT * claims, text + letters
            part.effects = self._effects(values[start:place], rows[claimed:root], rows[told_so:text])
            yield part

    def _effects(self, values: "array[int]", roots: bytes, texts: bytes) -> Iterator[Effect]:
        """What is told here, one by one: while they wait, they take a fraction of the room."""
        names, place, root, text = self._names, 0, 0, 0
        while place < len(values):
            code = values[place]
            if code == _GIVES:
                gives, many, place = Gives(values[place + 1], {}), values[place + 2], place + 3
                for _ in range(many):
                    end = place + 2 + values[place + 1]
                    gives.owed[names[values[place]]] = values[place + 2 : end]
                    place = end
                yield gives
            elif code == _CLAIM:
                _, index, origin, upto, size = values[place : place + 5]
                place, root = place + 5, root + _ROOT
                yield Claim(index, names[origin], upto, size, roots[root - _ROOT : root])
            else:
                kind: type[Any] = _KINDS[code]
                start, text = text, text + values[place + 1]
                place += 2
                yield kind(*json.loads(texts[start:text]))
