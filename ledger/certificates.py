"""A certificates file: the certified heads of many logs, each a C2SP checkpoint note, one empty line between two.

It is what `verify` leaves behind and what a later `verify --since` starts from; one exported `checkpoint` is one too.
Read strictly: every log once, nothing between or after the notes. Signatures are not checked here.

Pure: no IO.
"""

from collections.abc import Mapping

from . import notes
from .errors import NoteInvalid
from .notes import Note

MAX_BYTES = 1 << 28
"""The longest certificates file."""


def write(certificates: Mapping[str, Note]) -> bytes:
    """The file of these certificates, by origin."""
    return b"\n".join(certificates[origin].encode() for origin in sorted(certificates))


def parse(data: bytes) -> dict[str, Note]:
    """The certificates in a file, by origin.

    Raises:
        NoteInvalid: too long, not such a file, or a log twice.
    """
    if len(data) > MAX_BYTES:
        raise NoteInvalid(f"the certificates file has {len(data)} bytes, at most {MAX_BYTES} are read")
    parts = data.removesuffix(b"\n").split(b"\n\n") if data else []
    if len(parts) % 2:
        raise NoteInvalid("certificates file: not notes with one empty line between two of them")
    found: dict[str, Note] = {}
    for number, (text, signatures) in enumerate(zip(parts[::2], parts[1::2], strict=True), 1):
        try:
            note = notes.parse(b"%s\n\n%s\n" % (text, signatures))
            origin = notes.checkpoint(note).origin
        except NoteInvalid as exc:
            raise NoteInvalid(f"certificates file: note {number}: {exc.message}") from exc
        if origin in found:
            raise NoteInvalid(f"certificates file: note {number}: {origin} occurs twice; keep one")
        found[origin] = note
    if b"\n".join(note.encode() for note in found.values()) != data:
        raise NoteInvalid("certificates file: not notes with one empty line between two of them")
    return found
