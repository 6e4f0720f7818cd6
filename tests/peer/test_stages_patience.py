"""How long a driver waits for holders of experts.

IO: none.
"""

from __future__ import annotations

from peer.stages.patience import FIRST_S, Patience
from peer.stages.routing import LEAST_TIMEOUT_S, TIMES


def test_quick_holders_are_soon_waited_for_no_longer_than_the_least() -> None:
    patience = Patience()
    assert patience.timeout_s == FIRST_S
    for _ in range(300):
        patience.took(0.01)
    assert patience.timeout_s == LEAST_TIMEOUT_S


def test_a_slow_call_makes_a_driver_patient_for_the_next_ones() -> None:
    patience = Patience()
    patience.took(20.0)
    for _ in range(10):
        patience.took(0.01)
    assert 0.9 * TIMES * 20.0 <= patience.timeout_s <= TIMES * 20.0
