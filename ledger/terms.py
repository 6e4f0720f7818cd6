"""Terms: which of a run's leaders may extend its log just now, as its witnesses see it.

A leader bids for a term with a number above all that it knows of; a witness gives each number once, and from then on
takes heads of that leader alone. Two quorums share an honest witness, so two leaders never have a quorum of one number,
and who has a quorum learns from it every head that may have been certified before. Terms only keep leaders from
getting in each other's way: what is certified never depends on them.

Pure: no IO.
"""

from dataclasses import dataclass
from typing import NamedTuple

from . import codec, keys, values
from .errors import SignatureInvalid

CONTEXT = b"p2p-llm-forge/term/v1\n"
"""What a bid's signature covers before its body."""


class Term(NamedTuple):
    """A term that a witness gave."""

    number: int
    leader: str


NONE = Term(0, "")
"""Before the first."""


@dataclass(frozen=True, kw_only=True)
class Bid:
    """A leader's signed wish to lead a run from term `number` on, or, with `leave`, to lead no more in it."""

    origin: str
    """The run's log."""
    leader: str
    """The account, which signs."""
    number: int
    """At least 1."""
    leave: bool
    """Whether the leader goes."""
    signature: str
    """128 lowercase hex digits."""

    @classmethod
    def create(cls, key: keys.PrivateKey, origin: str, number: int, *, leave: bool = False) -> "Bid":
        """A bid signed by the leader."""
        signature = key.sign(_signed(origin, key.public, number, leave)).hex()
        return cls(origin=origin, leader=key.public, number=number, leave=leave, signature=signature)

    def verify(self) -> None:
        """Check the fields and the signature.

        Raises:
            EntryInvalid: a field is not what it must be; SignatureInvalid: the leader did not sign this.
        """
        values.account("leader", self.leader)
        values.integer("number", self.number, 1)
        if not values.is_signature(self.signature):
            raise values.fail("signature", self.signature, "128 lowercase hex digits")
        try:
            signed = _signed(self.origin, self.leader, self.number, self.leave)
            keys.verify(self.leader, signed, bytes.fromhex(self.signature))
        except SignatureInvalid as exc:
            raise SignatureInvalid(f"bid of {self.leader} for term {self.number}: {exc.message}") from exc


def _signed(origin: str, leader: str, number: int, leave: bool) -> bytes:
    body: codec.Json = {"leader": leader, "leave": int(leave), "number": number, "origin": origin}
    return CONTEXT + codec.encode(body)


def may_have(bid: Bid, given: Term, *, idle: bool) -> bool:
    """Whether a witness that gave this term gives the one that is bid for.

    The same leader goes on, also with a higher number; another one only once the leader of the term is `idle`, that is
    silent for long or gone. No number is given twice.
    """
    if bid.leader == given.leader:
        return bid.number >= given.number
    return bid.number > given.number and (idle or given == NONE)
