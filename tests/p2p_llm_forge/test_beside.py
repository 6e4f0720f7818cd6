"""What goes on side by side: no more than may, and nothing else before it is through.

IO: threads.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future

from p2p_llm_forge.beside import Beside


class Bench:
    """Works that end when the test says so."""

    def __init__(self) -> None:
        self.ended: list[Future[None]] = []
        self.beside = Beside(self.ended.append)
        self.together = threading.Barrier(2, timeout=30)
        self.done: list[str] = []

    def meet(self, name: str) -> None:
        """Ends once another one is there."""
        self.together.wait()
        self.done.append(name)

    def quick(self) -> None:
        self.done.append("quick")

    def fails(self) -> None:
        raise ZeroDivisionError


def test_two_go_on_at_the_same_time() -> None:
    bench = Bench()
    for name in "ab":
        bench.beside.begin(lambda name=name: bench.meet(name), 2)  # type: ignore[misc]
    bench.beside.wait()
    assert sorted(bench.done) == ["a", "b"]


def test_one_more_than_may_waits_for_another_to_end() -> None:
    bench, release = Bench(), threading.Event()
    running, most = [0], [0]

    def work() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        release.wait(30)
        running[0] -= 1

    bench.beside.begin(work, 1)
    threading.Timer(0.05, release.set).start()
    bench.beside.begin(work, 1)
    bench.beside.wait()
    assert (most[0], len(bench.ended)) == (1, 2)


def test_a_fault_is_told() -> None:
    bench = Bench()
    bench.beside.begin(bench.fails, 2)
    bench.beside.begin(bench.quick, 2)
    bench.beside.wait()
    assert [type(future.exception()) for future in bench.ended if future.exception()] == [ZeroDivisionError]
    assert bench.done == ["quick"]
