"""Passes that broke at one replica and were made by another: what the journal tells of them.

Pure: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.stages.tasks import Call


@dataclass(kw_only=True)
class Asked:
    """Who was asked for one pass so far. Written only by `Failovers`."""

    first_at: float
    """When the first of them was."""
    accounts: list[str] = field(default_factory=list)


class Failovers:
    """One driver's passes that are under way; of a replay of what was answered before nothing is known."""

    def __init__(self) -> None:
        self._asked: dict[object, Asked] = {}

    def clear(self) -> None:
        """Another round: what was under way is not wanted any more."""
        self._asked.clear()

    def asks(self, call: Call, now: float) -> None:
        """A replica is asked for this pass, perhaps not the first one, perhaps not for the first time."""
        asked = self._asked.setdefault(call.tag, Asked(first_at=now))
        if call.account not in asked.accounts:
            asked.accounts.append(call.account)

    def refused(self, call: Call) -> None:
        """It has no room, or is not in the round: nothing broke, wherever the pass is made now."""
        asked = self._asked.get(call.tag)
        if asked is not None and asked.accounts == [call.account]:
            del self._asked[call.tag]

    def answered(self, call: Call, now: float) -> dict[str, object] | None:
        """The pass is made; what is to be told if others were asked for it before.

        `seconds`: since the first of them was. An answer of the very first one, or one more answer, is nothing to tell.
        """
        asked = self._asked.pop(call.tag, None)
        if asked is None or asked.accounts[0] == call.account:
            return None
        before = asked.accounts[: asked.accounts.index(call.account)]
        return {**told(call), "before": before, "seconds": round(now - asked.first_at, 3)}


def told(call: Call) -> dict[str, object]:
    """Which pass, and who is asked."""
    tag = call.tag
    return {
        "round": tag.round, "stage": tag.stage, "microbatch": tag.microbatch, "kind": tag.kind.value,
        "account": call.account,
    }  # fmt: skip
