"""How replicas lie: what becomes of a true answer.

Pure: randomness is an argument.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from ledger.replica.values import Accusation, Answer, Entries, EntriesOf, EvidenceOf, Heads, HeadsSince, Request
from tests.sim.net import Failure

PAGE = 10
"""Heads of a full answer."""
LIES = (
    "wrong entries", "wrong proof", "wrong certificate", "other size", "ghosts", "greater heads", "garbage", "flood",
    "silence", "slowly", "false evidence", "refusals",
)  # fmt: skip


def lie(kind: str, request: Request, answer: Answer | None, rng: Random) -> Answer | None:
    """What a liar of this kind answers; raises Failure where it answers what cannot be parsed, or nothing."""
    if kind == "garbage" and rng.random() < 0.5:
        raise Failure("FP-307", "not a message")
    if kind == "silence" and not isinstance(request, HeadsSince):
        raise Failure("FP-302", "nothing")
    if isinstance(answer, Heads) and isinstance(request, HeadsSince):
        return _heads(kind, request, answer, rng)
    if isinstance(request, EntriesOf):
        return _entries(kind, request, answer if isinstance(answer, Entries) else None, rng)
    if isinstance(request, EvidenceOf) and kind == "false evidence":
        return Accusation(items=(b"{}",))
    return answer


def _heads(kind: str, request: HeadsSince, answer: Heads, rng: Random) -> Heads:
    if kind == "ghosts":
        return replace(answer, heads=tuple((origin, size + 1000) for origin, size in answer.heads))
    if kind == "greater heads":
        return replace(answer, heads=tuple((origin, size + 1) for origin, size in answer.heads))
    if kind == "false evidence":
        return replace(answer, evidence=tuple(origin for origin, _ in answer.heads))
    if kind == "flood":
        base = answer.heads[0][0][:-64] if answer.heads else "p2p-llm-forge/0123456789abcdef/"
        names = tuple((f"{base}{rng.getrandbits(256):064x}", rng.randint(1, 99)) for _ in range(PAGE))
        return replace(answer, heads=names, cursor=request.cursor + PAGE)
    return answer


def _entries(kind: str, request: EntriesOf, answer: Entries | None, rng: Random) -> Answer | None:
    if kind == "refusals":
        return None
    if answer is None or not answer.entries:
        return answer
    if kind == "wrong entries":
        at = rng.randrange(len(answer.entries))
        changed = answer.entries[at].replace(b"1", b"2") + b" "
        return replace(answer, entries=(*answer.entries[:at], changed, *answer.entries[at + 1 :]))
    if kind == "wrong proof":
        return replace(answer, proof=tuple(bytes(32) for _ in answer.proof) or (bytes(32),))
    if kind == "wrong certificate":
        return replace(answer, certificate=answer.certificate.replace(b"1", b"7"))
    if kind == "other size":
        return replace(answer, size=answer.size + rng.choice([-1, 1, 1000]))
    if kind == "slowly":
        return replace(answer, entries=answer.entries[:1])
    return answer
