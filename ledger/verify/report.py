"""What verification reports: faults, each log's numbers, and in words what is proven and what is not.

Pure: no IO.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ledger.fold.balances import Ledger
from ledger.genesis import Genesis


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The first thing that is wrong with a log."""

    origin: str
    """The log; empty for the ledger as a whole."""
    entry: int | None
    """The entry; None where it is about a head or the whole."""
    rule: str
    """What is broken."""
    got: str
    """What is there."""
    wanted: str
    """What should be there."""
    what: str = ""
    """What the entry is, as far as it can still be read."""
    further: tuple[str, ...] = ()
    """What else contradicts the entry."""

    def __str__(self) -> str:
        place = self.origin or "the ledger"
        place += "" if self.entry is None else f" entry {self.entry}"
        place += f" ({self.what})" if self.what else ""
        return "; ".join((f"{place}: {self.rule} is {self.got}, wanted {self.wanted}", *self.further))


@dataclass(frozen=True, kw_only=True)
class LogSummary:
    """What was found in one log."""

    origin: str
    """The log."""
    entries: int
    """How many are stored."""
    sound: int
    """How many passed, from the first on."""
    certified: int
    """How many a quorum of witnesses has certified."""
    receipts: int
    """How many of the sound ones are receipts, each with its signature verified, by this verification or before."""
    frozen: bool
    """Whether its owner is proven to have contradicted itself."""
    split: bool = False
    """Whether more than f witnesses are proven to have contradicted themselves about it."""
    earlier: int = 0
    """How many of the sound ones rest on an earlier verification: hashed and replayed, their signatures not checked."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What verification found."""

    ok: bool
    """Whether there is no fault."""
    network: str
    """The genesis id."""
    faults: tuple[Fault, ...]
    """At most one per log, and one for the whole."""
    logs: tuple[LogSummary, ...]
    """All logs, sorted."""
    ledger: Ledger
    """Balances and runs from the sound certified entries."""
    proven: tuple[str, ...]
    """What this verification proves, in sentences."""
    not_proven: tuple[str, ...]
    """What it does not."""
    certificates: bytes = b""
    """A certificates file of what is sound, to verify from the next time; empty where something is not."""

    @property
    def counts(self) -> dict[str, int]:
        """How much was looked at."""
        counts = {name: sum(getattr(log, name) for log in self.logs) for name in ("entries", "certified", "receipts")}
        ledger = self.ledger
        return {"logs": len(self.logs), **counts, "void": len(ledger.voids), "pending": len(ledger.pendings)}

    def to_json(self) -> dict[str, Any]:
        """The report as an object for programs."""
        ledger = self.ledger
        return {
            "ok": self.ok,
            "network": self.network,
            "faults": [{**asdict(fault), "message": str(fault)} for fault in self.faults],
            "logs": [asdict(log) for log in self.logs],
            "counts": self.counts,
            "balances": dict(sorted(ledger.balances.items())),
            "issued": ledger.issued,
            "burned": ledger.burned,
            "unclaimed": ledger.unclaimed,
            "proven": self.proven,
            "not_proven": self.not_proven,
        }


_TYPE = re.compile(rb'"type":"([a-z_]{1,16})"')
_ACCOUNT = re.compile(rb'"account":"([0-9a-f]{64})"')
_ROUND = re.compile(rb'"round":([0-9]{1,16})[,}]')


def describe_damaged(data: bytes) -> str:
    """What an entry is, from bytes that may no longer be one: "receipt of account … round …"."""
    found = [regex.search(data) for regex in (_TYPE, _ACCOUNT, _ROUND)]
    kind, account, round_ = (match[1].decode() if match else "" for match in found)
    if not kind and b'"state_in"' in data:
        kind = "stage_receipt" if b'"served"' in data else "receipt"  # the type is damaged; nothing else holds these
    parts = [kind or "unreadable"]
    if account or kind.endswith("receipt"):
        parts.append(f"of account {account or '(unreadable)'}")
    if round_ or kind.endswith("receipt"):
        parts.append(f"round {round_ or '(unreadable)'}")
    return " ".join(parts)


def claims(genesis: Genesis, logs: Sequence[LogSummary], ok: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a verification with this outcome proves, and what it does not, in sentences."""
    n, q = len(genesis.witnesses), genesis.quorum
    earlier = sum(log.earlier for log in logs)
    whose = "every receipt after the earlier certificates" if earlier else "every receipt"
    proven = (
        "every entry is in canonical form, follows the rules of its log, and hashes to the certified roots",
        "every head is signed by a writer of its log, every certificate cosigned by at least "
        f"{q} of {n} witnesses, {whose} signed by the member it credits",
        "the balances follow from the entries alone: nothing spent twice, no overdraft, no issue above a budget",
    )
    later = sum(max(0, log.sound - log.certified) for log in logs)
    not_proven = [
        "that the work behind the receipts was honest: receipts say who contributed which update",
        "that this is all there is: others may hold later certified entries",
        "that it was not rolled back to an older certified state: only live witnesses (--peers) or a certificate of an "
        "earlier verification (--since) show that",
    ]
    if earlier:
        several = sum(1 for log in logs if log.earlier)
        not_proven[2] += f", which was compared here for {several} of {len(logs)} logs"
        not_proven.append(
            f"the keys and receipts' signatures of the first entries of {several} logs, {earlier} in all: for these it "
            "rests on the earlier verification; their bytes are the certified ones"
        )
    split = sum(log.split for log in logs)
    if split:
        not_proven.append(
            f"that others hold the same ledger: evidence here proves that more than f = {genesis.f} witnesses cosigned "
            f"contradicting heads of {split} logs, which this network assumes never happens"
        )
    if n == 1:
        not_proven.append("anything against the one witness: a network of one witness trusts it not to rewrite history")
    if later:
        not_proven.append(f"the {later} entries that are not certified yet: they count for nothing")
    return (proven if ok else ()), tuple(not_proven)
