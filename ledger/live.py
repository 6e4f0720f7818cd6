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
class Head:
    """What one witness has of one log."""

    certificate: bytes
    """Its newest certificate, or empty."""
    promised: bytes
    """The newest head that it cosigned, as the log's writer signed it, or empty."""
    proof: tuple[bytes, ...] = ()
    """Where the certificate is further than what is here: the consistency proof from here to there."""


@dataclass(frozen=True, kw_only=True)
class WitnessView:
    """What one witness answered; its form is checked, nothing else."""

    error: str = ""
    """Why there is no answer, or what was wrong with it; empty where all is well."""
    heads: Mapping[str, Head] = field(default_factory=dict)
    """The logs that were asked for, by origin."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """The certified size of every log that it has, by origin, as it says."""


@dataclass(frozen=True, kw_only=True)
class Tail:
    """What one witness has of a log from some entry on; nothing of it is checked."""

    error: str = ""
    """Why there is no answer; empty where all is well."""
    entries: tuple[bytes, ...] = ()
    """The entries up to the head."""
    note: bytes = b""
    """The head: a certificate, or what the witness cosigned; empty where it does not know the log."""
    certificate: bytes = b""
    """The newest certificate that it has of the log, perhaps of fewer entries; or empty."""


class Live(Protocol):
    """Asks live witnesses."""

    def heads(
        self, genesis: Genesis, bootstrap: Sequence[str], sizes: Mapping[str, int], timeout_s: float
    ) -> dict[str, WitnessView]:
        """What every witness of the genesis has of these logs, by name; `sizes` is how far they are certified here.

        Each witness has that long to answer, a silent one is a view with an error.

        Raises:
            LedgerError: the network cannot be joined at all.
        """

    def entries(
        self, genesis: Genesis, bootstrap: Sequence[str], starts: Mapping[str, int], timeout_s: float
    ) -> dict[str, dict[str, Tail]]:
        """By log and witness, the entries of these logs from their starts on.

        Raises:
            LedgerError: the network cannot be joined at all.
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
    """Ids of blobs that are not here, or damaged, and stop the replay."""
    left_out: tuple[int, ...] = ()
    """Rounds that could therefore not be replayed."""


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
