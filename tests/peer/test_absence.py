"""Durations as people write them, and pauses as they are kept.

IO: none.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.absence import MOST_S, Absence, parse_duration
from peer.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400), (" 90S\n", 90), ("1.5h", 5400), ("1w", 604_800)],
)
def test_a_duration_is_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "2", "h", "2 hours", "-1h", "0m", "1h-5m", "1y", "367d", "1e3s", "nan", "²h", "1h2"]
)
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_duration(text)
    assert repr(text) in caught.value.message
    assert "30m, 2h, 1h30m, 1d" in caught.value.fix


def test_a_pause_ends_at_its_time_or_never_by_itself() -> None:
    short = Absence(since=100.0, until=160.0)
    assert [short.over(now) for now in (100.0, 159.9, 160.0, 1e9)] == [False, False, True, True]
    assert [short.left_s(now) for now in (100.0, 150.0, 200.0)] == [60.0, 10.0, 0.0]
    endless = Absence(since=100.0, until=None)
    assert not endless.over(1e12)
    assert endless.left_s(1e12) is None


@given(st.floats(0, 4e9), st.none() | st.floats(0, 4e9 + MOST_S))
def test_a_pause_comes_back_from_its_file_as_it_was(since: float, until: float | None) -> None:
    absence = Absence(since=since, until=until)
    assert Absence.decode(absence.encode()) == absence


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"1", b"\xff", b'{"since": 1}', b'{"since": 1, "until": "soon"}',
             b'{"since": 1, "until": null, "x": 1}', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="not a pause"):
        Absence.decode(data)
