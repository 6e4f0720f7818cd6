"""The volunteers: how fast their machines and lines are, and when they are online.

Pure: randomness comes from the generator given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from scripts.simulation.settings import Settings

HOUR_S = 3600.0
MBIT = 125_000.0
"""Bytes a second."""
EARLIER = 10
"""Mean cycles of coming and going before the simulation begins, so that it begins in the middle of life."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """One volunteer's machine."""

    name: str
    """The account, 64 hex."""
    slots_per_s: float
    down: float
    """Bytes a second that it gives."""
    up: float
    latency_s: float
    """To anybody."""


def account(seed: int, place: int) -> str:
    """The account of a simulated peer; 0 is the leader."""
    return sha256(f"{seed}/{place}".encode()).hexdigest()


def draw(rng: random.Random, settings: Settings, place: int) -> Person:
    """A volunteer."""
    down = settings.download_mbit * rng.lognormvariate(0, settings.download_spread)
    up = min(down, settings.upload_mbit * rng.lognormvariate(0, settings.upload_spread))
    tflops = settings.tflops * rng.lognormvariate(0, settings.tflops_spread)
    return Person(
        name=account(settings.seed, place),
        slots_per_s=tflops * 1e12 / settings.slot_flop,
        down=down * MBIT * settings.line_share,
        up=up * MBIT * settings.line_share,
        latency_s=settings.latency_ms / 1000 * rng.lognormvariate(0, settings.latency_spread),
    )


def population(settings: Settings) -> int:
    """How many volunteers there are, so that the wanted number is online on average."""
    if not settings.churn:
        return settings.peers
    return round(settings.peers * (settings.online_hours + settings.offline_hours) / settings.online_hours)


def sessions(rng: random.Random, settings: Settings) -> Iterator[tuple[float, float]]:
    """When one volunteer is online, as (start, end) in seconds, until the simulation's end."""
    end_s = settings.hours * HOUR_S
    if not settings.churn:
        yield 0.0, math.inf
        return
    scale = settings.online_hours / math.gamma(1 + 1 / settings.online_shape)
    time = -EARLIER * (settings.online_hours + settings.offline_hours) * HOUR_S * rng.uniform(0.9, 1.1)
    while time < end_s:
        start = time + rng.expovariate(1 / settings.offline_hours) * HOUR_S
        time = start + rng.weibullvariate(scale, settings.online_shape) * HOUR_S
        if time > 0 and start < end_s:
            yield max(0.0, start), time
