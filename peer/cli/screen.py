"""Draws a run on a terminal with rich, live; without a terminal each event is one plain line.

IO: writes to standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from peer.cli.view import COLUMNS, Event, RunView

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

SHOWN_ROUNDS = 14
SHOWN_NOTES = 6


class Screen(Protocol):
    """Where a run is shown: a live picture, or lines of text."""

    def show(self, event: Event) -> None:
        """Take in one event."""

    def say(self, text: str) -> None:
        """A line that stays."""


class PlainScreen:
    """One line per event, as it comes."""

    def __init__(self, view: RunView) -> None:
        self.view = view

    def show(self, event: Event) -> None:
        """Take in one event."""
        line = self.view.line(event)
        self.view = self.view.after(event)
        if line is not None:
            self.say(line)

    def say(self, text: str) -> None:
        """A line that stays."""
        print(text, flush=True)


class LiveScreen:
    """A table of the last rounds, the curve of the loss and the last notes, redrawn in place."""

    def __init__(self, view: RunView, live: Live) -> None:
        self.view = view
        self._live = live

    def show(self, event: Event) -> None:
        """Take in one event."""
        self.view = self.view.after(event)
        self._live.update(picture(self.view))

    def say(self, text: str) -> None:
        """A line that stays."""
        self._live.console.print(text, markup=False, highlight=False)


def picture(view: RunView) -> RenderableType:
    """The run as rich draws it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    receipts = f"{view.receipts}/{len(view.members)} receipts"
    going = f"round {view.open_round}, {receipts}" if view.open_round else "waiting"
    title = f"{view.name or 'run'} {view.run[:12]} · {view.closed or going}"
    table = Table(title=title, title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in view.rows[-SHOWN_ROUNDS:]:
        table.add_row(*row.cells())
    members = ", ".join(view.who(account) for account in view.members)
    lines = [Text(f"loss {view.sparkline()}")] if view.rows else []
    lines += [Text(f"members {members}", style="cyan")] if members and not view.stages else []
    lines += [Text(line, style="cyan") for line in view.stages]
    lines += [Text(note, style="yellow") for note in view.notes[-SHOWN_NOTES:]]
    return Group(table, *lines)


def on_a_terminal() -> bool:
    """Whether standard output is a terminal that can be redrawn."""
    return sys.stdout.isatty()


@contextmanager
def screen(view: RunView, *, live: bool | None = None) -> Iterator[Screen]:
    """The fitting screen for standard output."""
    if not (on_a_terminal() if live is None else live):
        yield PlainScreen(view)
        return
    from rich.live import Live

    with Live(picture(view), refresh_per_second=8, vertical_overflow="visible") as drawn:
        yield LiveScreen(view, drawn)
