"""C2SP signed notes, checkpoints and cosignatures: how log heads are signed.

signed-note:        text, an empty line, then lines "— <key name> <base64(key id ‖ signature)>"
tlog-checkpoint:    the text is origin, size and base64 root, a line each
tlog-cosignature:   a witness signs "cosignature/v1\\ntime T\\n" + text; the line holds u64be(T) ‖ signature

A *head* is a note signed by a writer of the log; a *certificate* is a head with the cosignatures of a quorum.

Pure: no IO.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from . import keys
from .codec import b64decode, b64encode, decimal
from .errors import CodecInvalid, NoteInvalid, SignatureInvalid

MAX_BYTES = 65536
"""The longest note that is read."""
MAX_SIGNATURES = 64
"""The most signature lines a note may bear."""
MAX_TIME_S = 2**63 - 1
"""The latest time of a cosignature, in seconds since 1970."""

_LOG, _COSIGNER = b"\x01", b"\x04"
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NAME = re.compile(r"[!-*,-~]{1,255}")  # printable ASCII without space and plus


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """One signature line."""

    name: str
    """The key's name: the origin of the log, or the witness's name."""
    key_id: bytes
    """4 bytes that tell keys of one name apart."""
    blob: bytes
    """What the algorithm puts after the key id."""

    def line(self) -> bytes:
        """The line with its newline."""
        return f"— {self.name} {b64encode(self.key_id + self.blob)}\n".encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A signed text."""

    text: str
    """Ends in a newline."""
    signatures: tuple[Signature, ...]
    """In the order in which they stand."""

    def encode(self) -> bytes:
        """The note's bytes."""
        return self.text.encode() + b"\n" + b"".join(signature.line() for signature in self.signatures)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a head says: this log, at this size, has this root."""

    origin: str
    """The log's origin line."""
    size: int
    """Number of entries."""
    root: bytes
    """Merkle root over them, 32 bytes."""

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root)}\n"


def check_name(name: str) -> None:
    """Check that a key may bear this name: printable ASCII without spaces and plus signs.

    Raises:
        NoteInvalid: it may not.
    """
    if not _NAME.fullmatch(name):
        raise NoteInvalid(f"key name {name[:40]!r} is not 1–255 printable ASCII characters without spaces and plus")


def log_key_id(name: str, public: str) -> bytes:
    """The key id of a log key."""
    return sha256(name.encode() + b"\n" + _LOG + bytes.fromhex(public)).digest()[:4]


def witness_key_id(name: str, public: str) -> bytes:
    """The key id of a witness key."""
    return sha256(name.encode() + b"\n" + _COSIGNER + bytes.fromhex(public)).digest()[:4]


def vkey(name: str, public: str, *, witness: bool = False) -> str:
    """The verifier key line that third-party tools take."""
    key_id = witness_key_id(name, public) if witness else log_key_id(name, public)
    return f"{name}+{key_id.hex()}+{b64encode((_COSIGNER if witness else _LOG) + bytes.fromhex(public))}"


def parse(data: bytes) -> Note:
    """Read a signed note strictly.

    Raises:
        NoteInvalid: oversize, not UTF-8, control characters, no signature, or a malformed signature line.
    """
    if len(data) > MAX_BYTES:
        raise NoteInvalid(f"the note has {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        whole = data.decode()
    except UnicodeDecodeError as exc:
        raise NoteInvalid(f"the note is not UTF-8: {exc.reason}") from exc
    if _CONTROL.search(whole):
        raise NoteInvalid("the note holds control characters")
    text, gap, tail = whole.rpartition("\n\n")
    if not gap or not text or not tail.endswith("\n"):
        raise NoteInvalid("the note is not a text, an empty line and signature lines")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteInvalid(f"the note bears {len(lines)} signatures, at most {MAX_SIGNATURES} are read")
    return Note(text=text + "\n", signatures=tuple(_parse_line(line) for line in lines))


def _parse_line(line: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    try:
        blob = b64decode(encoded)
    except CodecInvalid as exc:
        raise NoteInvalid(f"signature line {line[:40]!r}: {exc.message}") from exc
    if dash != "—" or not _NAME.fullmatch(name) or len(blob) < 5:
        raise NoteInvalid(f"signature line {line[:40]!r} is not '— name base64'")
    return Signature(name=name, key_id=blob[:4], blob=blob[4:])


def checkpoint(note: Note) -> Checkpoint:
    """What the note's text says; lines after the root are refused, as our logs write none.

    Raises:
        NoteInvalid: the text is not a checkpoint.
    """
    lines = note.text.split("\n")
    try:
        if len(lines) != 4 or not lines[0]:
            raise NoteInvalid(f"a checkpoint has 3 lines (origin, size, root), got {len(lines) - 1}")
        found = Checkpoint(origin=lines[0], size=decimal(lines[1] or "?"), root=b64decode(lines[2]))
    except CodecInvalid as exc:
        raise NoteInvalid(f"checkpoint of {lines[0][:80]}: {exc.message}") from exc
    if len(found.root) != 32:
        raise NoteInvalid(f"checkpoint of {lines[0][:80]}: the root has {len(found.root)} bytes, wanted 32")
    return found


def sign_head(head: Checkpoint, key: keys.PrivateKey) -> bytes:
    """The head as a note signed by `key` under the log's own name."""
    text = head.text()
    line = Signature(name=head.origin, key_id=log_key_id(head.origin, key.public), blob=key.sign(text.encode()))
    return Note(text=text, signatures=(line,)).encode()


def verify_head(note: Note, writers: Iterable[str]) -> str:
    """The public key, out of `writers`, that signed this head under the log's own name.

    Raises:
        NoteInvalid: none of them did, or a line claims so with a signature that does not verify.
    """
    origin = checkpoint(note).origin
    ids: dict[bytes, list[str]] = {}  # two keys may share an id of 4 bytes
    for public in writers:
        ids.setdefault(log_key_id(origin, public), []).append(public)
    for signature in note.signatures:
        claimed = ids.get(signature.key_id, []) if signature.name == origin else []
        for public in claimed:
            try:
                keys.verify(public, note.text.encode(), signature.blob)
            except SignatureInvalid as exc:
                if public == claimed[-1]:
                    raise NoteInvalid(f"head of {origin}: {exc.message}") from exc
            else:
                return public
    raise NoteInvalid(f"head of {origin}: not signed by any of its {sum(map(len, ids.values()))} allowed writers")


def _cosigned(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosign(head: bytes, name: str, key: keys.PrivateKey, time_s: int) -> bytes:
    """A witness's cosignature line for a head, at `time_s` seconds since 1970.

    The time is for people: nothing that is valid depends on it. One that no line can hold becomes the nearest that can.
    """
    text, time_s = parse(head).text, min(max(time_s, 1), MAX_TIME_S)
    blob = time_s.to_bytes(8, "big") + key.sign(_cosigned(text, time_s))
    return Signature(name=name, key_id=witness_key_id(name, key.public), blob=blob).line()


def cosigned_at(note: Note, name: str, public: str) -> int | None:
    """The time of this witness's cosignature in seconds, or None where the note bears none.

    Raises:
        NoteInvalid: the note bears one that does not verify.
    """
    wanted = witness_key_id(name, public)
    for signature in note.signatures:
        if signature.name != name or signature.key_id != wanted:
            continue
        time_s = int.from_bytes(signature.blob[:8], "big")
        if time_s > MAX_TIME_S:
            raise NoteInvalid(f"cosignature of {name}: time {time_s} is above 2^63-1, which no reader of notes takes")
        try:
            keys.verify(public, _cosigned(note.text, time_s), signature.blob[8:])
        except SignatureInvalid as exc:
            raise NoteInvalid(f"cosignature of {name}: {exc.message}") from exc
        return time_s
    return None


def combine(head: bytes, cosignatures: Iterable[bytes]) -> bytes:
    """The head with cosignature lines added, each witness once.

    Raises:
        NoteInvalid: a line is malformed.
    """
    note = parse(head)
    lines = {(signature.name, signature.key_id): signature for signature in note.signatures}
    for line in cosignatures:
        try:
            found = _parse_line(line.decode().removesuffix("\n"))
        except UnicodeDecodeError as exc:
            raise NoteInvalid(f"a cosignature line is not UTF-8: {exc.reason}") from exc
        lines.setdefault((found.name, found.key_id), found)
    return Note(text=note.text, signatures=tuple(lines.values())).encode()
