"""What the DHT node of this peer stores and believes: whole, signed, timely records of this network, within quotas.

Checked when a record is stored and again when it is read, because nodes without this validator exist. hivemind itself
has no quotas: one peer could fill the memory of all others.

Pure: the clock is given.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from peer.errors import RecordInvalid
from peer.records import PeerAdvert, Record, RunAdvert

KINDS: tuple[type[Record], ...] = (PeerAdvert, RunAdvert)
_MAX_RECORDS = 8192
_MAX_PER_ACCOUNT = 64
_CACHE = 16384


class RecordValidator:
    """Decides what the DHT node of this peer stores and believes; hivemind's RecordValidatorBase by shape."""

    def __init__(self, network: str, clock: Callable[[], float], own: str = "") -> None:
        self._network = network
        self._clock = clock
        self._own = own
        self._kinds = {_dht_id(key): kind for kind in KINDS for key in kind.keys(network)}
        self._seen: dict[str, tuple[float, str]] = {}  # subkey -> (expires, account)
        self._verified: OrderedDict[bytes, Record] = OrderedDict()
        self.refused: Counter[str] = Counter()
        """Reasons, with how often."""

    def validate(self, record: Any) -> bool:
        """Whether a DHT record is one of ours, whole, signed, timely and within the quotas."""
        try:
            kind = self._kinds.get(bytes(record.key))
            subkey, value = unpack_string(bytes(record.subkey)), unpack_string(bytes(record.value))
            if kind is None or not isinstance(subkey, str) or not isinstance(value, bytes):
                raise RecordInvalid("not a record of this network")
            found = self.read(kind, value)
            if found.subkey != subkey or record.expiration_time != found.expires:
                raise RecordInvalid(f"{kind.KIND} record: stored under another name or time than it is signed for")
            self._admit(found)
        except RecordInvalid as exc:
            self.refused[exc.message[:80]] += 1
            return False
        return True

    def read(self, kind: type[Record], value: bytes) -> Record:
        """The verified record in these bytes; signatures are checked once per record. Raises RecordInvalid."""
        digest = hashlib.sha256(kind.KIND.encode() + b"\n" + value).digest()
        known = self._verified.get(digest)
        if known is None:
            known = self._verified[digest] = kind.verify(value, network=self._network, now=self._clock())
            if len(self._verified) > _CACHE:
                self._verified.popitem(last=False)
        elif not self._clock() < known.expires:
            raise RecordInvalid(f"{kind.KIND} record: expired")
        return known

    def sign_value(self, record: Any) -> bytes:
        """Records are signed before they come here."""
        return bytes(record.value)

    def strip_value(self, record: Any) -> bytes:
        """The signature is inside the record."""
        return bytes(record.value)

    def _admit(self, record: Record) -> None:
        """Quotas: hivemind has none, and one peer could fill the memory of all others."""
        now, subkey = self._clock(), record.subkey
        if subkey not in self._seen and record.account != self._own:
            if len(self._seen) >= _MAX_RECORDS:
                self._seen = {name: entry for name, entry in self._seen.items() if entry[0] > now}
            mine = sum(entry[1] == record.account for entry in self._seen.values()) if self._seen else 0
            if len(self._seen) >= _MAX_RECORDS or mine >= _MAX_PER_ACCOUNT:
                raise RecordInvalid(f"{record.KIND} record: no room for more")
        self._seen[subkey] = (record.expires, record.account)


def _dht_id(key: str) -> bytes:
    """hivemind's DHTID of a string key: SHA-1 of its msgpack bytes."""
    text = key.encode()
    assert len(text) < 256
    head = bytes([0xA0 | len(text)]) if len(text) < 32 else bytes([0xD9, len(text)])
    return hashlib.sha1(head + text).digest()  # an address, not a proof


def unpack_string(data: bytes) -> bytes | str | None:
    """One msgpack string or byte string of at most 64 KiB that is the whole of `data`; None for anything else."""
    if not data:
        return None
    first = data[0]
    widths = {0xC4: 1, 0xC5: 2, 0xD9: 1, 0xDA: 2}
    if 0xA0 <= first <= 0xBF:
        start, size = 1, first & 0x1F
    elif first in widths:
        start = 1 + widths[first]
        size = int.from_bytes(data[1:start], "big")
    else:
        return None
    body = data[start:]
    if len(body) != size:
        return None
    if first in (0xC4, 0xC5):
        return body
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
