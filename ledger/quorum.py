"""From cosignature lines to a certificate: counts only lines that verify, each witness once.

A witness may answer anything, so a line counts after it was checked against that witness's key and this very head; a
line that does not is refused and changes nothing.

Pure: no IO.
"""

from . import notes
from .errors import NoteInvalid
from .genesis import Genesis


class Quorum:
    """The cosignatures collected for one head."""

    def __init__(self, genesis: Genesis, head_note: bytes) -> None:
        """`head_note` is the head as its writer signed it.

        Raises:
            NoteInvalid: it is not a signed note.
        """
        notes.parse(head_note)
        self._genesis = genesis
        self._keys = dict(genesis.witnesses)
        self._head = head_note
        self._lines: dict[str, bytes] = {}

    def add(self, name: str, line: bytes) -> bool:
        """Count the line that witness `name` answered; whether there is a certificate now.

        Raises:
            NoteInvalid: it is not this witness's cosignature of this head.
        """
        public = self._keys.get(name)
        if public is None:
            raise NoteInvalid(f"{name[:80]!r} is not a witness of network {self._genesis.name!r}")
        note = notes.parse(notes.combine(self._head, [line]))
        if notes.cosigned_at(note, name, public) is None:
            raise NoteInvalid(f"what witness {name} answered is not its cosignature of this head")
        self._lines.setdefault(name, line)
        return self.certificate is not None

    @property
    def missing(self) -> tuple[str, ...]:
        """The witnesses whose cosignature is not there, in the order of the genesis."""
        return tuple(name for name, _ in self._genesis.witnesses if name not in self._lines)

    @property
    def certificate(self) -> bytes | None:
        """The head with all cosignatures so far, once they are a quorum."""
        if len(self._lines) < self._genesis.quorum:
            return None
        return notes.combine(self._head, self._lines.values())
