"""What `forge-ledger` asks of the outside world and this package may not do itself: witnesses, and replayed training.

Both come from plug-ins, found by entry points of the group `p2p_llm_forge.ledger`: each names a class that takes no
arguments and has the methods of the protocol.

IO: reads the entry points of what is installed and imports them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from .errors import PluginMissing
from .genesis import Genesis

GROUP = "p2p_llm_forge.ledger"
"""The group of entry points: `live` and `replay`."""


@dataclass(frozen=True, kw_only=True)
class WitnessView:
    """What one witness answered; nothing of it is checked yet."""

    error: str = ""
    """Why there is no answer, or what was wrong with it; empty where all is well."""
    heads: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """By origin, the certificate and the note of the newest head promised; empty bytes where there is none."""


class Live(Protocol):
    """Asks live witnesses."""

    def heads(
        self, genesis: Genesis, bootstrap: Sequence[str], origins: Sequence[str] | None, timeout_s: float
    ) -> dict[str, WitnessView]:
        """What every witness of the genesis has of these logs, or of all its logs; each witness within the time.

        Raises:
            LedgerError: the network cannot be joined at all.
        """

    def entries(
        self, genesis: Genesis, bootstrap: Sequence[str], origin: str, start: int, timeout_s: float
    ) -> dict[str, tuple[tuple[bytes, ...], bytes]]:
        """By witness, the entries of the log from `start` on, certified or promised, and the note of their head.

        Raises:
            LedgerError: the network cannot be joined at all, or no witness answers.
        """


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """What came of computing a run's states again."""

    rounds: int
    """Rounds replayed."""
    compared: int
    """States whose id was compared with the log's."""
    mismatches: tuple[str, ...]
    """Rounds whose state is not the log's, in words."""
    missing: tuple[str, ...]
    """Ids of blobs that are not here and stop the replay."""


class Replay(Protocol):
    """Applies a run's updates again."""

    def replay(
        self, home: Path, run_id: str, entries: Sequence[bytes], progress: Callable[[int, int], None] | None
    ) -> ReplayReport:
        """Recompute the states of a run from the blobs in a home, by its certified entries.

        Raises:
            LedgerError: it cannot be begun.
        """


def live() -> Live:
    """The plug-in that asks witnesses."""
    return cast(Live, _plugin("live", "asking live witnesses"))


def replay() -> Replay:
    """The plug-in that replays training."""
    return cast(Replay, _plugin("replay", "replaying a run"))


def _plugin(name: str, purpose: str) -> object:
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        hint = "install the whole of p2p-llm-forge (pip install .), not its ledger package alone"
        raise PluginMissing(f"{purpose}: no plug-in {name!r} in the group {GROUP}; {hint}")
    try:
        make = cast("Callable[[], object]", found[0].load())
    except (ImportError, AttributeError) as exc:
        raise PluginMissing(f"{purpose}: the plug-in {found[0].value} cannot be loaded: {exc}") from exc
    return make()
