"""What peers tell each other through the DHT: signed, expiring records.

A record is canonical JSON with the signature of its account inside. Records are hints: they prove who said something,
not that it is so.

Pure: bytes in, records out; the time is an argument.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints

from ledger import codec
from ledger.errors import LedgerError
from ledger.keys import PrivateKey, verify
from peer.errors import IdentityInvalid, MessageInvalid, RecordInvalid
from peer.peerkey import Binding
from peer.wire import Account, Hash, Message, Natural, PeerIdText, Signature, Word

VALUE_LIMIT = 8192
"""Bytes of one record."""
TTL_S = 90
"""How long a record lives; refreshed at a third."""
MAX_TTL_S = 180
"""No record may claim to live longer; leaves room for clocks that differ."""
SHARDS = 4
"""DHT keys per kind, so that one key's dictionary stays below the message limit."""

Address = Annotated[str, StringConstraints(max_length=200)]
Short = Annotated[str, StringConstraints(max_length=64)]


class Record(Message):
    """Base: which network, whose, until when, and the signature over all of it."""

    KIND: ClassVar[str] = ""
    network: Hash
    """Genesis id."""
    account: Account
    """Who says it, and signs."""
    peer_id: PeerIdText
    """The peer that the account speaks through."""
    expires: Natural
    """Unix time in seconds."""
    signature: Signature
    """By the account, over the canonical bytes without this field."""

    @classmethod
    def create(cls, key: PrivateKey, *, now: float, ttl_s: int = TTL_S, **fields: Any) -> Self:
        """Fills in account and expiry, and signs.

        Raises:
            MessageInvalid: a field does not fit.
            RecordInvalid: the record is too large.
        """
        body = {**fields, "account": key.public, "expires": int(now) + ttl_s}
        unsigned = cls.read({**body, "signature": "0" * 128}).body()
        del unsigned["signature"]
        record = cls.read({**unsigned, "signature": key.sign(_signed(cls.KIND, unsigned)).hex()})
        if len(record.encode()) > VALUE_LIMIT:
            raise RecordInvalid(f"{cls.KIND} record: {len(record.encode())} bytes, the limit is {VALUE_LIMIT}")
        return record

    @classmethod
    def verify(cls, data: bytes, *, network: str = "", now: float = 0.0) -> Self:
        """The record in these bytes, signatures checked; network and expiry too where they are given.

        Raises:
            RecordInvalid: naming what does not hold.
        """
        try:
            body = codec.decode(data, limit=VALUE_LIMIT)
            record = cls.read(body)
            unsigned = record.body()
            del unsigned["signature"]
            verify(record.account, _signed(cls.KIND, unsigned), bytes.fromhex(record.signature))
            record.check_binding()
        except (LedgerError, MessageInvalid, IdentityInvalid, ValueError) as exc:
            raise RecordInvalid(f"{cls.KIND} record: {exc}") from exc
        if network and record.network != network:
            raise RecordInvalid(f"{cls.KIND} record: of network {record.network[:16]}, expected {network[:16]}")
        if now and not now < record.expires <= now + MAX_TTL_S:
            raise RecordInvalid(f"{cls.KIND} record: expires {record.expires - now:+.0f} s from now")
        return record

    def check_binding(self) -> None:
        """More signatures, where a kind has them; raises IdentityInvalid."""

    def encode(self) -> bytes:
        """The canonical bytes, signature included."""
        return codec.encode(self.body())

    def text(self) -> str:
        """The same as a string, to be carried in a message."""
        return self.encode().decode()

    def facts(self) -> dict[str, Any]:
        """What people may want to see: everything but the signatures."""
        return {key: value for key, value in self.body().items() if not key.endswith("signature")}

    @property
    def subkey(self) -> str:
        """Which entry of its DHT key the record is; only its account can write it."""
        return self.account

    @property
    def key(self) -> str:
        """The DHT key."""
        return _key(self.network, self.KIND, int(self.subkey[:2], 16) % SHARDS)

    @classmethod
    def keys(cls, network: str) -> list[str]:
        """Every DHT key of this kind."""
        return [_key(network, cls.KIND, shard) for shard in range(SHARDS)]


class PeerAdvert(Record):
    """A peer that is here, with what it lends."""

    KIND: ClassVar[str] = "peer"
    account_signature: Signature
    """Binds the PeerID to the account."""
    peer_signature: Signature
    """Binds the account to the PeerID."""
    name: Short = ""
    """What its owner calls it."""
    addresses: Annotated[list[Address], Field(max_length=16)]
    """Multiaddresses with the PeerID at the end."""
    device: Short = "cpu"
    """What it trains on."""
    memory_bytes: Natural = 0
    """Memory of that device."""
    gflops: Natural = 0
    """Measured training speed in GFLOP/s (10^9 operations per second); 0: not measured."""
    up_mbit: Natural = 0
    """Upload that it lends, in Mbit/s; 0: no cap."""
    down_mbit: Natural = 0
    """Download that it lends, in Mbit/s; 0: no cap."""
    roles: Annotated[list[Short], Field(max_length=8, default_factory=list)]
    """member, leader, witness …"""
    witness: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Public key of the witness that runs here, or empty."""
    witness_signature: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{128})?$")] = ""
    """By the witness key, over the PeerID; empty where there is no witness."""
    version: Short = ""
    """Of the software."""
    max_runs: Natural = 1
    """Runs that it takes part in at the same time."""

    @classmethod
    def of(cls, key: PrivateKey, binding: Binding, *, network: str, now: float, **fields: Any) -> Self:
        """An advert of the peer with this binding; see `create`."""
        return cls.create(
            key,
            now=now,
            network=network,
            peer_id=binding.peer_id,
            account_signature=binding.account_signature,
            peer_signature=binding.peer_signature,
            **fields,
        )

    def check_binding(self) -> None:
        """Both signatures between PeerID and account, and the witness's for the PeerID."""
        if bool(self.witness) != bool(self.witness_signature):
            raise IdentityInvalid(f"peer {self.peer_id}: names a witness without its signature, or the reverse")
        if self.witness:
            verify(self.witness, witness_binding(self.peer_id), bytes.fromhex(self.witness_signature))
        Binding(
            peer_id=self.peer_id,
            account=self.account,
            account_signature=self.account_signature,
            peer_signature=self.peer_signature,
        ).verify()


class RunAdvert(Record):
    """A run that looks for members; its log is the truth about it."""

    KIND: ClassVar[str] = "run"
    run: Hash
    """Run id."""
    name: Word = ""
    """As its submitter calls it."""
    phase: Short
    """waiting, training, closed …"""
    round: Natural = 0
    """The last settled one."""
    rounds: Natural = 0
    """How many there will be."""
    members: Natural = 0
    """On the roster now."""
    min_members: Natural = 1
    """It waits for as many."""
    max_members: Natural = 1
    """It takes no more."""
    parameters: Natural = 0
    """Size of the model."""

    @property
    def subkey(self) -> str:
        """One entry for each leader of the run."""
        return f"{self.run}:{self.account}"


def witness_binding(peer_id: str) -> bytes:
    """What a witness's key signs, so that nobody else can pose as its peer."""
    return b"p2p-llm-forge/bind-witness/v1\n" + peer_id.encode()


def _signed(kind: str, unsigned: dict[str, Any]) -> bytes:
    return f"p2p-llm-forge/{kind}-advert/v1\n".encode() + codec.encode(unsigned)


def _key(network: str, kind: str, shard: int) -> str:
    return f"forge/{network[:16]}/{kind}/{shard}"
