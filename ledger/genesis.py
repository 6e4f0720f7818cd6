"""The genesis: one canonical object that defines a network; its SHA-256 is the network's id.

Pure: no IO.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from . import codec, keys, notes
from .codec import MAX_INT, Json
from .errors import CodecInvalid, GenesisInvalid, KeyInvalid, NoteInvalid
from .notes import Note
from .rules import Terms

RULES = 1
"""The version of the rules this code follows."""
MAX_BYTES = 1 << 20
"""The longest genesis."""
_KEYS = {"rules", "name", "supply", "witnesses", "f", "issuers"}


@dataclass(frozen=True, kw_only=True)
class Genesis:
    """What all peers of one network agree on from the start."""

    name: str
    """For people."""
    supply: tuple[tuple[str, int], ...]
    """Accounts with the micro-credits they own from the start."""
    witnesses: tuple[tuple[str, str], ...]
    """Names and public keys of those who cosign heads."""
    f: int
    """How many witnesses may be faulty; there are at least 3f+1."""
    issuers: tuple[tuple[str, int], ...] = ()
    """Accounts that may issue, with their total budgets in micro-credits."""
    rules: int = RULES
    """The version of the rules."""

    def __post_init__(self) -> None:
        if self.rules != RULES or type(self.rules) is not int:
            raise GenesisInvalid(f"genesis: rules is {self.rules!r}, this program follows {RULES}; use its version")
        if type(self.name) is not str or not 1 <= len(self.name) <= 80:
            raise GenesisInvalid(f"genesis: name is {str(self.name)[:80]!r}, wanted 1..80 characters")
        for field in ("supply", "issuers"):
            object.__setattr__(self, field, _amounts(field, getattr(self, field)))
        object.__setattr__(self, "witnesses", _witnesses(self.witnesses))
        n = len(self.witnesses)
        if type(self.f) is not int or self.f < 0 or n < 3 * self.f + 1:
            raise GenesisInvalid(f"genesis: f is {self.f!r} with {n} witnesses, wanted at least 3f+1 witnesses")
        owners = {account for account, _ in (*self.supply, *self.issuers)}
        for name, public in self.witnesses:
            if public in owners:
                raise GenesisInvalid(f"genesis: witness {name} uses an account's key; make a key for each role")
        if sum(amount for _, amount in (*self.supply, *self.issuers)) > MAX_INT:
            raise GenesisInvalid("genesis: supply and budgets together are above 2^53-1 micro-credits")
        try:
            self.encode()
        except CodecInvalid as exc:
            raise GenesisInvalid(f"genesis: {exc.message}") from exc

    @classmethod
    def create(
        cls,
        *,
        name: str,
        supply: Iterable[tuple[str, int]] | Mapping[str, int] = (),
        witnesses: Iterable[tuple[str, str]],
        f: int | None = None,
        issuers: Iterable[tuple[str, int]] | Mapping[str, int] = (),
    ) -> "Genesis":
        """A new genesis; `f` is the most that the number of witnesses allows, unless given.

        Raises:
            GenesisInvalid: it would not be one.
        """
        members = tuple(witnesses)
        return cls(
            name=name,
            supply=tuple(supply.items() if isinstance(supply, Mapping) else supply),
            witnesses=members,
            f=max(0, (len(members) - 1) // 3) if f is None else f,
            issuers=tuple(issuers.items() if isinstance(issuers, Mapping) else issuers),
        )

    @classmethod
    def parse(cls, data: bytes) -> "Genesis":
        """The genesis with these canonical bytes.

        Raises:
            GenesisInvalid: it is not one.
        """
        try:
            return cls.from_json(codec.decode(data, MAX_BYTES))
        except CodecInvalid as exc:
            raise GenesisInvalid(f"genesis: {exc.message}") from exc

    @classmethod
    def from_json(cls, body: object) -> "Genesis":
        """The genesis that this object is.

        Raises:
            GenesisInvalid: it is not one.
        """
        if not isinstance(body, Mapping) or set(body) != _KEYS:
            got = sorted(body) if isinstance(body, Mapping) else type(body).__name__
            raise GenesisInvalid(f"genesis: keys are {got}, wanted {sorted(_KEYS)}")
        return cls(**body)

    def to_json(self) -> dict[str, Json]:
        """The object whose canonical bytes define the network."""
        return {
            "rules": self.rules, "name": self.name, "supply": self.supply, "witnesses": self.witnesses, "f": self.f,
            "issuers": self.issuers,
        }  # fmt: skip

    def encode(self) -> bytes:
        """The canonical bytes."""
        return codec.encode(self.to_json())

    def check_same(self, stored: bytes | None, place: str) -> None:
        """Check that what lies at `place` is of this network, by the genesis stored there.

        Raises:
            GenesisInvalid: it is of another, or of none.
        """
        if stored != self.encode():
            other = keys.fingerprint(stored)[:16] if stored else "none"
            wanted = f"{self.id[:16]} ({self.name})"
            raise GenesisInvalid(f"{place}: is of network {other}, wanted {wanted}; give its own network file")

    @cached_property
    def id(self) -> str:
        """The network's id, 64 hex digits."""
        return keys.fingerprint(self.encode())

    @cached_property
    def terms(self) -> Terms:
        """What the rules and the fold need."""
        return Terms(network=self.id, supply=dict(self.supply), issuers=dict(self.issuers))

    @property
    def keys(self) -> list[str]:
        """All keys that it registers; each was checked."""
        return [*{key: None for key, _ in (*self.supply, *self.issuers)}, *(key for _, key in self.witnesses)]

    @property
    def quorum(self) -> int:
        """How many witnesses must cosign: two quorums share at least one that is not faulty."""
        return (len(self.witnesses) + self.f) // 2 + 1

    def origin(self, account: str) -> str:
        """The origin line of an account's log."""
        return self.terms.origin(account)

    def run_origin(self, run_id: str) -> str:
        """The origin line of a run's log."""
        return self.terms.origin(f"run/{run_id}")

    def cosigners(self, note: Note) -> list[str]:
        """The names of this network's witnesses whose cosignatures the note bears.

        Raises:
            NoteInvalid: one of them does not verify.
        """
        return [name for name, public in self.witnesses if notes.cosigned_at(note, name, public) is not None]


def parse_network(data: bytes, place: str = "network file") -> tuple[Genesis, tuple[str, ...]]:
    """The genesis and the bootstrap addresses of a network file, or of a bare genesis.

    Raises:
        GenesisInvalid: it is neither.
    """
    try:
        body = json.loads(data.decode(), object_pairs_hook=_object) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError) as exc:
        raise GenesisInvalid(f"{place}: not JSON: {exc}") from exc
    if not isinstance(body, dict):
        raise GenesisInvalid(f"{place}: is not an object of at most {MAX_BYTES} bytes")
    bootstrap = body.get("bootstrap", [])
    if not isinstance(bootstrap, list) or any(type(address) is not str for address in bootstrap):
        raise GenesisInvalid(f"{place}: bootstrap is {str(bootstrap)[:60]}, wanted an array of addresses")
    try:
        return Genesis.from_json(body.get("genesis", body)), tuple(bootstrap)
    except (GenesisInvalid, CodecInvalid) as exc:
        raise GenesisInvalid(f"{place}: {exc.message}") from exc


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _amounts(field: str, pairs: object) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for pair in _pairs(field, pairs):
        account, amount = pair
        _key(field, account)
        if type(amount) is not int or not 1 <= amount <= MAX_INT:
            raise GenesisInvalid(f"genesis: {field} of {str(account)[:16]}… is {amount!r}, wanted an integer 1..2^53-1")
        if account in found:
            raise GenesisInvalid(f"genesis: {field} names {account} twice")
        found[account] = amount
    return tuple(found.items())


def _witnesses(pairs: object) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for name, public in _pairs("witnesses", pairs):
        try:
            notes.check_name(str(name))
        except NoteInvalid as exc:
            raise GenesisInvalid(f"genesis: witness {name!r}: {exc.message}") from exc
        _key("witnesses", public)
        if name in found or public in found.values():
            raise GenesisInvalid(f"genesis: witness {name} or its key is named twice")
        found[name] = str(public)
    if not found:
        raise GenesisInvalid("genesis: no witnesses; one is enough for a network of your own")
    return tuple(found.items())


def _pairs(field: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, (list, tuple)) or any(
        not isinstance(pair, (list, tuple)) or len(pair) != 2 or type(pair[0]) is not str for pair in value
    ):
        raise GenesisInvalid(f"genesis: {field} is {str(value)[:60]}, wanted an array of pairs")
    return [(pair[0], pair[1]) for pair in value]


def _key(field: str, public: object) -> None:
    try:
        keys.check_public(str(public))
    except KeyInvalid as exc:
        raise GenesisInvalid(f"genesis: {field}: {exc.message}") from exc
