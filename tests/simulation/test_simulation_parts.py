"""Lines, swarms, people, settings."""

import math
import random
from statistics import mean, median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.simulation.people import HOUR_S, MBIT, draw, population, sessions
from scripts.simulation.pipes import Pipe, drained, fair_rate
from scripts.simulation.settings import Settings

amounts = st.floats(0.1, 1e9)


@given(st.floats(0.1, 1e9), st.lists(amounts, min_size=1, max_size=30))
def test_a_fair_rate_spends_the_capacity_and_no_more(capacity: float, wanted: list[float]) -> None:
    rate = fair_rate(capacity, wanted)
    spent = sum(min(most, rate) for most in wanted)
    assert spent <= capacity * (1 + 1e-9)
    assert spent >= min(capacity, sum(wanted)) * (1 - 1e-9)


def test_a_pipe_serves_in_turn_and_rests_in_between() -> None:
    pipe = Pipe(10.0)
    assert [pipe.take(0.0, 50), pipe.take(1.0, 50), pipe.take(100.0, 50)] == [5.0, 10.0, 105.0]


@given(st.lists(st.floats(0, 1e4), max_size=40), st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.floats(0, 1e4))
def test_a_member_is_done_when_a_pipe_would_be(arrivals: list[float], each: float, rate: float, since: float) -> None:
    pipe = Pipe(rate)
    pipe.free_at = since
    wanted = max([since, *(pipe.take(time, each) for time in sorted(arrivals))])
    assert drained(np.sort(np.array(arrivals)), each, rate, since) == pytest.approx(wanted)


def test_lines_are_asymmetric_and_have_the_medians_asked_for() -> None:
    settings, rng = Settings(), random.Random(3)
    people = [draw(rng, settings, place) for place in range(1, 4001)]
    assert all(person.up <= person.down for person in people)
    assert median(p.down for p in people) == pytest.approx(100 * 0.8 * MBIT, rel=0.1)
    assert median(p.up for p in people) == pytest.approx(25 * 0.8 * MBIT, rel=0.15)
    assert median(p.slots_per_s for p in people) * settings.slot_flop == pytest.approx(12e12, rel=0.1)


def test_half_of_the_people_are_online_if_they_are_so_half_of_the_time() -> None:
    settings, rng = Settings(peers=1000, hours=6.0), random.Random(5)
    end_s = settings.hours * HOUR_S
    online = [sum(min(end, end_s) - start for start, end in sessions(rng, settings)) for _ in range(2000)]
    assert mean(online) / end_s == pytest.approx(0.5, abs=0.04)
    assert population(settings) == 2000


def test_sessions_of_one_person_do_not_overlap() -> None:
    settings, rng = Settings(hours=50.0, online_hours=1.0, offline_hours=0.5), random.Random(7)
    times = [time for session in sessions(rng, settings) for time in session]
    assert len(times) > 20
    assert times == sorted(times)


def test_without_churn_everybody_stays_to_the_end() -> None:
    settings = Settings(peers=7, online_hours=math.inf)
    assert list(sessions(random.Random(1), settings)) == [(0.0, math.inf)]
    assert population(settings) == 7


def test_the_support_of_a_mean_grows_with_the_updates_and_ends_at_all() -> None:
    settings = Settings()
    supports = [settings.support(count) for count in (1, 10, 64, 1000)]
    assert supports == sorted(supports)
    assert supports[0] == pytest.approx(1 / 64)
    assert supports[-1] == pytest.approx(1.0, abs=1e-6)
    assert settings.partial_bytes(1) == settings.update_bytes
    assert settings.mean_bytes(1000) < 1.2 * settings.parameters


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"peers": 0}, "peers is 0, wanted more than 0"),
        ({"hours": -1.0}, "hours is -1.0, wanted more than 0"),
        ({"upload_mbit": math.nan}, "upload_mbit is nan, wanted more than 0"),
        ({"upload_mbit": math.inf}, "upload_mbit is inf, wanted a finite number"),
        ({"crash_share": 1.5}, "crash_share is 1.5, wanted from 0 to 1"),
        ({"latency_spread": -0.1}, "latency_spread is -0.1, wanted a number of at least 0"),
        ({"offline_hours": math.inf}, "offline_hours is inf, wanted a number of at least 0"),
        ({"scheme": "ring"}, "scheme is ring, wanted one of flat, lean, tree, ranges"),
        ({"ends": "never"}, "ends is never, wanted one of own, together"),
        ({"peers": 3, "min_members": 4}, "peers is 3, wanted at least min_members, which is 4"),
    ],
)
def test_settings_that_make_no_sense_are_named(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings(**wrong)  # type: ignore[arg-type]
