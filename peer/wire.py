"""What peers say to each other: frames of canonical JSON plus raw bytes, and strict frozen message models.

A frame is `F1`, u32be length of the JSON, the canonical JSON, then the payload. Everything is size-capped before it
is parsed; what does not parse is refused with a reason.

Pure: bytes in, values out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ledger import codec
from ledger.errors import LedgerError
from peer.errors import ForgeError, MessageInvalid, Oversize, Refused

PAYLOAD_LIMIT = 1 << 20
"""Raw bytes in one frame: one chunk of a blob."""
JSON_LIMIT = 1 << 20
"""Canonical JSON in one frame, header included."""
FRAME_LIMIT = PAYLOAD_LIMIT + (1 << 16)
"""The whole frame; so a frame has a full payload or a large body, not both."""
_MAGIC = b"F1"
_HEAD = len(_MAGIC) + 4

Account = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""Ed25519 public key."""
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256."""
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
"""Ed25519 signature."""
BlobId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}-(0|[1-9][0-9]{0,15})$")]
"""RFC 6962 root over 1 MiB chunks, then the length in bytes."""
PeerIdText = Annotated[str, StringConstraints(pattern=r"^[1-9A-HJ-NP-Za-km-z]{52}$")]
"""libp2p PeerID of an Ed25519 key."""
Natural = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""An integer that canonical JSON can hold."""
Flag = Annotated[int, Field(ge=0, le=1)]
"""Canonical JSON has no booleans."""
Word = Annotated[str, StringConstraints(max_length=200)]
"""A short text."""

M = TypeVar("M", bound=BaseModel)


def check(model: type[M], body: Any) -> M:
    """Builds a model from decoded JSON.

    Raises:
        MessageInvalid: naming message, field and reason.
    """
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise MessageInvalid(f"{model.__name__}: {place}: {first['msg']}") from exc


class Message(BaseModel):
    """Base of every message body: frozen, exact types, unknown keys refused; None means that the key is absent."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @classmethod
    def read(cls, body: Any) -> Self:
        """Builds the message from a decoded body.

        Raises:
            MessageInvalid: naming message, field and reason.
        """
        return check(cls, body)

    def body(self) -> dict[str, Any]:
        """The canonical-able object; keys that are None are left out."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True)
class Reply:
    """What a handler or a call gives back."""

    body: dict[str, Any]
    """Canonical-able JSON object."""
    payload: bytes = b""
    """Raw bytes beside it, at most PAYLOAD_LIMIT."""


def pack(head: dict[str, Any], payload: bytes = b"") -> bytes:
    """One frame.

    Raises:
        Oversize: body or payload above the limits.
        MessageInvalid: the head is not canonical-able.
    """
    try:
        data = codec.encode(head)
    except LedgerError as exc:
        raise MessageInvalid(f"a message cannot be encoded: {exc}") from exc
    if len(data) > JSON_LIMIT or len(payload) > PAYLOAD_LIMIT or _HEAD + len(data) + len(payload) > FRAME_LIMIT:
        raise Oversize(
            f"a message of {len(data)} + {len(payload)} bytes; the limits are {JSON_LIMIT} + {PAYLOAD_LIMIT}, "
            f"together {FRAME_LIMIT}"
        )
    return b"".join((_MAGIC, len(data).to_bytes(4, "big"), data, payload))


def unpack(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """The head and the payload of a frame.

    Raises:
        Oversize: refused before anything is parsed.
        MessageInvalid: not a frame, or its JSON is not canonical.
    """
    if len(frame) > FRAME_LIMIT:
        raise Oversize(f"a frame of {len(frame)} bytes, the limit is {FRAME_LIMIT}")
    if len(frame) < _HEAD or not frame.startswith(_MAGIC):
        raise MessageInvalid(f"a frame of {len(frame)} bytes does not begin with {_MAGIC!r} and a length")
    size = int.from_bytes(frame[len(_MAGIC) : _HEAD], "big")
    if size > JSON_LIMIT or _HEAD + size > len(frame):
        raise MessageInvalid(f"a frame of {len(frame)} bytes claims {size} bytes of JSON")
    if len(frame) - _HEAD - size > PAYLOAD_LIMIT:
        raise Oversize(f"a payload of {len(frame) - _HEAD - size} bytes, the limit is {PAYLOAD_LIMIT}")
    try:
        head = codec.decode(frame[_HEAD : _HEAD + size], limit=JSON_LIMIT)
    except LedgerError as exc:
        raise MessageInvalid(f"a frame's JSON: {exc}") from exc
    if not isinstance(head, dict):
        raise MessageInvalid(f"a frame's JSON is a {type(head).__name__}, expected an object")
    return head, frame[_HEAD + size :]


class Request(BaseModel):
    """Head of a request frame."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    method: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_./-]{0,63}$")]
    body: dict[str, Any]
    timeout_ms: Annotated[int, Field(ge=1, le=2**31)]
    """How long the caller waits; the handler is stopped then."""


class _Fault(Message):
    code: Annotated[str, StringConstraints(pattern=r"^FP-[0-9]{3}$")]
    message: Annotated[str, StringConstraints(max_length=2000)]


class _Response(Message):
    ok: dict[str, Any] | None = None
    error: _Fault | None = None


def pack_reply(reply: Reply) -> bytes:
    """A response frame; raises as `pack`."""
    return pack({"ok": reply.body}, reply.payload)


def pack_error(error: ForgeError) -> bytes:
    """A response frame that makes the caller raise Refused with this code and message."""
    return pack({"error": {"code": error.code, "message": error.message[:2000]}})


def unpack_reply(frame: bytes) -> Reply:
    """What the other side answered.

    Raises:
        Refused: it answered with an error.
        MessageInvalid: it answered with nonsense.
        Oversize: it answered with too much.
    """
    head, payload = unpack(frame)
    response = _Response.read(head)
    if response.error is not None and response.ok is None:
        raise Refused(response.error.code, response.error.message)
    if response.ok is None or response.error is not None:
        raise MessageInvalid("a response has neither or both of 'ok' and 'error'")
    return Reply(response.ok, payload)
