"""Makes workers slow: each process runs in its own part of every period and stands still in the rest of it.

The parts follow one another, so that the workers do not slow each other down either: together they use one core.

IO: SIGSTOP and SIGCONT to processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PERIOD_S = 0.1
"""Short against a round: a process that stands still for most of it ends its work late by up to a period."""


def parts(shares: Mapping[int, float]) -> list[tuple[int, float]]:
    """(process, seconds of the period), in turn; shares add up to 1 at most."""
    return [(pid, PERIOD_S * share) for pid, share in shares.items()]


@contextmanager
def throttled(shares: Mapping[int, float]) -> Iterator[None]:
    """Each process gets its share of one core while the block runs; afterwards all run freely."""
    over = threading.Event()

    def turns() -> None:
        while not over.is_set():
            for pid, seconds in parts(shares):
                _signal(pid, signal.SIGCONT)
                time.sleep(seconds)
                _signal(pid, signal.SIGSTOP)
            time.sleep(PERIOD_S * max(0.0, 1.0 - sum(shares.values())))

    thread = threading.Thread(target=turns, daemon=True)
    for pid in shares:
        _signal(pid, signal.SIGSTOP)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for pid in shares:
            _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
