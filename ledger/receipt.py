"""The base of all entries, that of all receipts, and the receipt: a member's signed statement of its update.

Pure: no IO.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self, cast

from . import codec, keys, values
from .codec import Json
from .errors import CodecInvalid, EntryInvalid, SignatureInvalid
from .values import Slots

CONTEXT = b"p2p-llm-forge/receipt/v1\n"
"""What a receipt's signature covers before its body."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Base of all entry types; equality is equality of content."""

    type: ClassVar[str]
    _keys: ClassVar[frozenset[str]]

    def to_json(self) -> dict[str, Json]:
        """The object whose canonical bytes are the entry."""
        body = {field.name: getattr(self, field.name) for field in fields(self)}
        body["type"] = self.type
        return body

    def encode(self) -> bytes:
        """The entry's bytes: what is hashed and stored.

        Raises:
            CodecInvalid: longer than an entry may be.
        """
        data = codec.encode(self.to_json())
        if len(data) > codec.MAX_BYTES:
            raise CodecInvalid(f"the {self.type} entry is {len(data)} bytes, at most {codec.MAX_BYTES} are allowed")
        return data

    @classmethod
    def from_json(cls, body: Mapping[str, Json]) -> Self:
        """The entry of this type that is this object; for messages that carry one.

        Raises:
            EntryInvalid: another type, a missing or unknown key, or a value that does not fit.
        """
        if body.get("type") != cls.type:
            raise values.fail("type", body.get("type"), cls.type)
        if body.keys() != cls.field_names():
            raise values.fail(f"keys of {cls.type}", ", ".join(sorted(body)), ", ".join(sorted(cls.field_names())))
        arguments = dict(body)
        del arguments["type"]
        return cls(**arguments)

    @classmethod
    def field_names(cls) -> frozenset[str]:
        """The keys of this type's object."""
        if "_keys" not in cls.__dict__:
            cls._keys = frozenset({"type", *(field.name for field in fields(cls))})
        return cls._keys


@dataclass(frozen=True, kw_only=True)
class AnyReceipt(Entry):
    """Base of all receipts: what a member says of its update, and its signature."""

    context: ClassVar[bytes]
    """What the signature covers before the body."""
    network: str
    """The genesis id."""
    run: str
    """The run id."""
    round: int
    """The open round."""
    account: str
    """The member, who signs."""
    state_in: str
    """The id of the state that it trained from."""
    update: str
    """The blob id of the update."""
    tokens: int
    """Tokens trained: count × tokens per slot."""
    slots: Slots
    """The slots used."""
    loss: int
    """Mean training loss, micro-nats per token."""
    leaves: str
    """Merkle root over the per-slot statements."""
    signature: str
    """By `account`, 128 lowercase hex digits."""

    def _signed(self) -> bytes:
        """What the signature covers."""
        body = self.to_json()
        del body["signature"]
        return self.context + codec.encode(body)

    def verify(self) -> None:
        """Check the signature.

        Raises:
            SignatureInvalid: it does not verify.
        """
        try:
            keys.verify(self.account, self._signed(), bytes.fromhex(self.signature))
        except SignatureInvalid as exc:
            raise SignatureInvalid(f"receipt of {self.account} for round {self.round}: {exc.message}") from exc


def check_signature(receipt: AnyReceipt) -> None:
    """Check that the member that a receipt credits signed it.

    Raises:
        EntryInvalid: it did not.
    """
    try:
        receipt.verify()
    except SignatureInvalid as exc:
        wanted = f"a signature by {receipt.account} over this receipt"
        raise EntryInvalid(rule="signature", got=f"{receipt.signature[:16]}…", wanted=wanted) from exc


@dataclass(frozen=True, kw_only=True)
class Receipt(AnyReceipt):
    """A member's signed statement of its update."""

    type: ClassVar[str] = "receipt"
    context: ClassVar[bytes] = CONTEXT
    steps: int
    """Inner optimizer steps."""

    def __post_init__(self) -> None:
        values.digest("network", self.network)
        values.digest("run", self.run)
        values.integer("round", self.round, 1)
        values.account("account", self.account)
        values.blob_id("state_in", self.state_in)
        values.blob_id("update", self.update)
        values.integer("tokens", self.tokens, 1)
        start, count = values.array("slots", self.slots, (2,))
        values.integer("slots start", start)
        values.integer("slots count", count, 1)
        object.__setattr__(self, "slots", Slots(cast(int, start), cast(int, count)))
        values.integer("loss", self.loss)
        values.integer("steps", self.steps)
        values.digest("leaves", self.leaves)
        if type(self.signature) is not str or not values.is_signature(self.signature):
            raise values.fail("signature", self.signature, "128 lowercase hex digits")

    @classmethod
    def create(
        cls,
        *,
        network: str,
        run: str,
        round: int,
        state_in: str,
        update: str,
        tokens: int,
        slots: tuple[int, int],
        loss: int,
        steps: int,
        leaves: str,
        key: keys.PrivateKey,
    ) -> "Receipt":
        """The receipt with these contents, signed by `key`, whose account it is."""
        body: dict[str, Json] = {
            "account": key.public, "leaves": leaves, "loss": loss, "network": network, "round": round, "run": run,
            "slots": list(slots), "state_in": state_in, "steps": steps, "tokens": tokens, "type": cls.type,
            "update": update,
        }  # fmt: skip
        return cls.from_json({**body, "signature": key.sign(CONTEXT + codec.encode(body)).hex()})

    def _signed(self) -> bytes:
        """What the signature covers; the canonical body at once, as every field was checked to need no escapes."""
        start, count = self.slots
        body = (
            f'{{"account":"{self.account}","leaves":"{self.leaves}","loss":{self.loss},'
            f'"network":"{self.network}","round":{self.round},"run":"{self.run}","slots":[{start},{count}],'
            f'"state_in":"{self.state_in}","steps":{self.steps},"tokens":{self.tokens},"type":"receipt",'
            f'"update":"{self.update}"}}'
        )
        return CONTEXT + body.encode()
