"""libp2p identities: the PeerID of an Ed25519 key, the key file that p2pd reads, the binding of a PeerID to an account.

A PeerID of an Ed25519 key embeds the public key (libp2p specs, peer-ids), so a binding verifies without any look-up.
Imports no hivemind: the key file is hivemind's `crypto_pb2.PrivateKey` written by hand.

IO: `PeerKey.load` and `save`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.errors import LedgerError
from ledger.keys import PrivateKey, check_public, verify
from peer.errors import IdentityInvalid, KeyDamaged
from peer.files import write_atomic

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PUBLIC_PREFIX = b"\x00\x24\x08\x01\x12\x20"
"""Identity multihash of 36 bytes: protobuf PublicKey(key_type=Ed25519, data=32 bytes)."""
_PRIVATE_PREFIX = b"\x08\x01\x12\x40"
"""Protobuf PrivateKey(key_type=Ed25519, data=64 bytes: seed, then public key)."""
_ID_BYTES = len(_PUBLIC_PREFIX) + 32
_ID_LENGTH = 52
_BIND_ACCOUNT = b"p2p-llm-forge/bind-peer/v1\n"
_BIND_PEER = b"p2p-llm-forge/bind-account/v1\n"


def peer_id_of(public: bytes) -> str:
    """The PeerID (base58) of a raw Ed25519 public key of 32 bytes."""
    number, text = int.from_bytes(_PUBLIC_PREFIX + public, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return _ALPHABET[0] + text  # exactly one leading zero byte: the identity multihash code


def public_of(peer_id: str) -> str:
    """The Ed25519 public key (hex) that a PeerID embeds.

    Raises:
        IdentityInvalid: not the one canonical spelling of an Ed25519 PeerID.
    """
    if len(peer_id) != _ID_LENGTH:
        raise IdentityInvalid(f"peer id {peer_id[:64]!r}: {len(peer_id)} characters, expected {_ID_LENGTH}")
    number = 0
    for character in peer_id:
        digit = _ALPHABET.find(character)
        if digit < 0:
            raise IdentityInvalid(f"peer id {peer_id!r}: {character!r} is not base58")
        number = number * 58 + digit
    data = number.to_bytes(_ID_BYTES + 8, "big")[8:]
    if not data.startswith(_PUBLIC_PREFIX) or peer_id_of(data[len(_PUBLIC_PREFIX) :]) != peer_id:
        raise IdentityInvalid(f"peer id {peer_id!r}: not the id of an Ed25519 key")
    return data[len(_PUBLIC_PREFIX) :].hex()


class PeerKey:
    """The libp2p key of this peer; p2pd reads the same file."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self.public)

    @classmethod
    def generate(cls) -> PeerKey:
        """A new key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> PeerKey:
        """Reads a key file.

        Raises:
            KeyDamaged: unreadable, of another format, or its halves do not belong together.
        """
        try:
            data = path.read_bytes()
        except OSError as exc:
            raise KeyDamaged(f"{path}: {exc.strerror}") from exc
        body = data[len(_PRIVATE_PREFIX) :]
        if not data.startswith(_PRIVATE_PREFIX) or len(body) != 64:
            fix = "restore it, or delete it to get a new PeerID"
            raise KeyDamaged(f"{path}: {len(data)} bytes that are no libp2p Ed25519 key of 68 bytes", fix)
        key = cls(Ed25519PrivateKey.from_private_bytes(body[:32]))
        if key.public != body[32:]:
            raise KeyDamaged(f"{path}: its public half does not belong to its private half", "restore it from a backup")
        return key

    def save(self, path: Path) -> None:
        """Writes the key file, mode 0400, whole or not at all."""
        write_atomic(path, _PRIVATE_PREFIX + self._key.private_bytes_raw() + self.public, mode=0o400)

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self._key.sign(message)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """A PeerID and an account, each signed with the key of the other."""

    peer_id: str
    """libp2p PeerID, base58."""
    account: str
    """Account key, hex."""
    account_signature: str
    """By the account key, over the PeerID; hex."""
    peer_signature: str
    """By the libp2p key, over the account; hex."""

    @classmethod
    def create(cls, account_key: PrivateKey, peer_key: PeerKey) -> Binding:
        """Signs both ways."""
        account, peer_id = account_key.public, peer_key.peer_id
        return cls(
            peer_id=peer_id,
            account=account,
            account_signature=account_key.sign(_BIND_ACCOUNT + peer_id.encode()).hex(),
            peer_signature=peer_key.sign(_BIND_PEER + account.encode()).hex(),
        )

    def verify(self) -> None:
        """Raises IdentityInvalid unless both signatures hold."""
        try:
            check_public(self.account)
            public = public_of(self.peer_id)
            check_public(public)
            verify(self.account, _BIND_ACCOUNT + self.peer_id.encode(), bytes.fromhex(self.account_signature))
            verify(public, _BIND_PEER + self.account.encode(), bytes.fromhex(self.peer_signature))
        except (LedgerError, ValueError) as exc:
            raise IdentityInvalid(f"binding of peer {self.peer_id} to account {self.account}: {exc}") from exc
