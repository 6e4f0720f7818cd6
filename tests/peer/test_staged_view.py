"""What people read of runs with stages."""

from __future__ import annotations

from typing import Any

import pytest

from peer.cli.runs import flat
from peer.cli.view import RunView

STAGES = [
    {"stage": 0, "share": 0.3, "replicas": [{"account": "ab" * 32, "queue": 2, "busy": 0.5, "microbatch_ms": 12.5}]},
    {"stage": 1, "share": 0.7, "replicas": [{"account": "cd" * 32}]},
    {"stage": 2, "share": 0.0, "replicas": []},
    {"stage": 3, "share": 0.1, "replicas": [], "experts": True},
]
LINES = (
    "stage 0 (30% of the work): abababab (queue 2, busy 50%, 12.5 ms a microbatch)",
    "stage 1 (70% of the work): cdcdcdcd",
    "stage 2 (0% of the work): no replica",
    "experts 3 (10% of the work): no replica, left out",
)


def test_status_has_a_line_for_each_stage() -> None:
    assert list(flat({"stages": STAGES})) == [("stages", line) for line in LINES]


def test_watch_shows_the_stages_as_they_were_told_last() -> None:
    assert RunView().after({"event": "stages", "stages": STAGES}).stages == LINES


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "placed", "account": "ab" * 32, "stage": 1}, "abababab is to serve stage 1"),
        ({"event": "moved", "account": "ab" * 32, "before": 0, "stage": 1}, "abababab moves from stage 0 to stage 1"),
        ({"event": "loaded", "round": 2, "stage": 1}, "round 2: this peer holds stage 1"),
        (
            {"event": "undone", "round": 2, "microbatches": 3},
            "round 2: 3 microbatches were taken out again: others serve them",
        ),
        (
            {"event": "void", "round": 2, "step": "driving"},
            "round 2: does not count: it could not be brought to its end while driving",
        ),
        (
            {"event": "masked", "round": 2, "tokens": 200, "weakened": 5, "silenced": 0},
            "round 2: 2.5% of the tokens, counted in every layer, went without experts that nobody serves",
        ),
        ({"event": "unfit", "account": "ab" * 32, "reason": "too small"}, "abababab can serve no stage: too small"),
        (
            {"event": "waiting", "round": 2, "missing": "stage 1 has no replica"},
            "round 2: waiting: stage 1 has no replica",
        ),
        ({"event": "waiting", "round": 2, "ready": 1, "needs": 2}, "round 2: waiting for members: 1 of 2 are ready"),
    ],
)  # fmt: skip
def test_an_event_is_one_line(event: dict[str, Any], line: str) -> None:
    assert RunView().line(event) == line
