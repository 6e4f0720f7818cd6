"""Reads a plain UTF-8 text file in pieces, refusing what is not text.

IO: reads the one file it is given, without ever holding all of it.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

from p2p_llm_forge.errors import CorpusError

PIECE_BYTES = 1 << 18

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


def size(path: Path) -> int:
    """The length of the corpus in bytes.

    Raises:
        CorpusError: missing, a folder, unreadable or empty.
    """
    try:
        if path.is_dir():
            raise CorpusError(f"corpus {path}: is a folder; give one plain text file")
        length = path.stat().st_size
    except OSError as exc:
        raise CorpusError(f"corpus {path}: {exc.strerror or exc}; set data.path to a plain text file") from exc
    if length == 0:
        raise CorpusError(f"corpus {path}: is empty; give a text file with at least a few sequences of text")
    return length


def pieces(path: Path, progress: Progress | None = None, phase: str = "read") -> Iterator[str]:
    """The text in order, in pieces of about 256 KiB that end at a line break where there is one.

    Raises:
        CorpusError: see `size`; also for bytes that are not UTF-8 text, with their offset.
    """
    total, done, rest = size(path), 0, ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while True:
                raw = file.read(PIECE_BYTES)
                text = _text(decoder, raw, done, path)
                done += len(raw)
                if not raw:
                    break
                rest += text
                cut = rest.rfind("\n") + 1 or (len(rest) if len(rest) > PIECE_BYTES else 0)
                if cut:
                    yield rest[:cut]
                    rest = rest[cut:]
                if progress:
                    progress(phase, min(done, total), total)
    except OSError as exc:
        raise CorpusError(f"corpus {path}: {exc.strerror or exc}") from exc
    if rest:
        yield rest


def _text(decoder: codecs.IncrementalDecoder, raw: bytes, offset: int, path: Path) -> str:
    zero = raw.find(b"\x00")
    if zero >= 0:
        raise CorpusError(f"corpus {path}: binary (a zero byte at {offset + zero}); give a plain UTF-8 text file")
    kept = len(decoder.getstate()[0])
    try:
        return decoder.decode(raw, final=not raw)
    except UnicodeDecodeError as exc:
        place = offset - kept + exc.start
        raise CorpusError(f"corpus {path}: not UTF-8 text at byte {place}; convert it to UTF-8 first") from exc
