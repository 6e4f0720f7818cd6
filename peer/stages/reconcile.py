"""Who shall hold what of a round, from what the drivers recorded and who is still there.

Every microbatch counts in all stages or in none, and in each stage at one replica. What the recorded replica does not
hold is a gap: the driver replays it from its records, or, if the driver is gone, the microbatch is dropped everywhere.
A replica that is gone still counts with the receipt that it had delivered, if that is exactly what it shall hold.
Groups of experts are stages without which a microbatch counts all the same: what nobody can replay there is left out.

Pure: no state.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

Table = Mapping[int, tuple[str, ...]]
"""By microbatch: the replicas of stages 1, 2, … that hold it, or empty; all of it is in its driver's stage 0."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What came of it."""

    counted: frozenset[int]
    """Microbatches that every stage holds, once the gaps are closed."""
    manifests: Mapping[str, frozenset[int]]
    """What each account shall hold; accounts that hold nothing are missing."""
    gaps: Mapping[str, tuple[tuple[int, int], ...]]
    """By driver: (stage, microbatch) to be replayed."""


def reconcile(
    tables: Mapping[str, Table], *, working: Set[str], lacking: Mapping[str, Set[int]], sound: Mapping[str, Set[int]],
    optional: Mapping[int, bool] | None = None,
) -> Agreement:  # fmt: skip
    """Agree on who shall hold what.

    Args:
        tables: by driver.
        working: accounts that are there: they can undo, replay and write.
        lacking: by account, what it was asked for and does not hold.
        sound: by account, what the receipt says that it delivered and whose update is at hand.
        optional: stages that are groups of experts, and whether somebody there is working.
    """
    dropped: set[int] = set()
    groups = optional or {}
    kept = {account: served for account, served in sound.items() if served}
    while True:
        manifests: dict[str, set[int]] = {}
        gaps: dict[str, list[tuple[int, int]]] = {}
        changed = False
        for driver, table in tables.items():
            for microbatch, replicas in table.items():
                if microbatch in dropped:
                    continue
                holders = (driver, *replicas)
                open_stages = [
                    stage
                    for stage, account in enumerate(holders)
                    if account and not _holds(account, microbatch, working=working, lacking=lacking, kept=kept)
                ]
                absent = [stage for stage in open_stages if not groups.get(stage, True) or driver not in working]
                left_out = {stage for stage in absent if stage in groups}
                open_stages = [stage for stage in open_stages if stage not in left_out]
                if open_stages and driver not in working:
                    dropped.add(microbatch)
                    changed = True
                    continue
                gaps.setdefault(driver, []).extend((stage, microbatch) for stage in open_stages)
                for stage, account in enumerate(holders):
                    if account and stage not in open_stages and stage not in left_out:
                        manifests.setdefault(account, set()).add(microbatch)
        void = [account for account, served in kept.items() if manifests.get(account, set()) != served]
        for account in void:
            del kept[account]
        if not changed and not void:
            break
    return Agreement(
        counted=frozenset(microbatch for table in tables.values() for microbatch in table) - dropped,
        manifests={account: frozenset(held) for account, held in manifests.items()},
        gaps={driver: tuple(sorted(found)) for driver, found in gaps.items() if found},
    )


def _holds(
    account: str, microbatch: int, *, working: Set[str], lacking: Mapping[str, Set[int]], kept: Mapping[str, Set[int]]
) -> bool:
    """Whether the account has it in its accumulator, or in an update that counts."""
    if account in kept and microbatch in kept[account]:
        return True
    return account in working and microbatch not in lacking.get(account, frozenset())
