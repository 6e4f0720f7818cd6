"""A progress bar on standard error: drawn on a terminal; elsewhere a plain line now and then; nothing if quiet.

IO: standard error and the clock.
"""

import sys
import time

import click

BAR = 30
DRAW_S = 0.1
TELL_S = 10.0


class Progress:
    """Told how much of how much is done."""

    def __init__(self, what: str, unit: str, *, quiet: bool = False) -> None:
        self._what, self._unit, self._quiet = what, unit, quiet
        self._terminal = sys.stderr.isatty()
        self._began = self._next = time.monotonic()
        if not self._terminal:
            self._next += TELL_S
        self._drawn = False

    def __call__(self, done: int, total: int) -> None:
        """Show it, if it is time to."""
        now = time.monotonic()
        if self._quiet or now < self._next or not total:
            return
        self._next = now + (DRAW_S if self._terminal else TELL_S)
        counts = f"{done:,} of {total:,} {self._unit}"
        if not self._terminal:
            click.echo(f"{self._what}: {counts}", err=True)
            return
        full = BAR * done // total
        bar = "█" * full + "░" * (BAR - full)
        left = (now - self._began) * (total - done) / done if done else 0.0
        eta = f", {left:.0f} s left" if left >= 1 else ""
        click.echo(f"\r\x1b[K{self._what} {bar} {100 * done // total:3d} %  {counts}{eta}", err=True, nl=False)
        self._drawn = True

    def end(self) -> None:
        """Take the bar away."""
        if self._drawn:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._drawn = False
