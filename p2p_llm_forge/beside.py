"""Requests that go on side by side, as they mostly wait for others; whatever else is asked for waits until they are
through.

IO: threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

MOST = 64


class Beside:
    """What is under way. All methods belong to the main thread."""

    def __init__(self, ended: Callable[[Future[None]], None]) -> None:
        """`ended` hears of each one, in its own thread."""
        self._pool = ThreadPoolExecutor(MOST, thread_name_prefix="beside")
        self._ended = ended
        self._under_way: set[Future[None]] = set()

    def begin(self, work: Callable[[], None], most: int) -> None:
        """Begin this once fewer than `most` are under way."""
        while len(self._under_way) >= most:
            _, self._under_way = wait(self._under_way, return_when=FIRST_COMPLETED)
        begun = self._pool.submit(work)
        begun.add_done_callback(self._ended)
        self._under_way.add(begun)

    def wait(self) -> None:
        """Until nothing is under way."""
        wait(self._under_way)
        self._under_way.clear()
