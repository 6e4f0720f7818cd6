"""Which of the advertised runs this peer takes part in.

Pure: adverts and limits in, run ids out.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from peer.records import RunAdvert


def choose(adverts: Iterable[RunAdvert], *, taken: Set[str], busy: int, max_runs: int) -> list[RunAdvert]:
    """The runs to join now, cheapest name-independent order: those with the fewest members first.

    Args:
        adverts: runs that their leaders advertise.
        taken: run ids that we know already, whether running or over.
        busy: how many runs we work on.
        max_runs: how many we work on at most.
    """
    open_runs = [advert for advert in adverts if advert.run not in taken and advert.phase != "closed"]
    return sorted(open_runs, key=lambda advert: (advert.members, advert.run))[: max(0, max_runs - busy)]
