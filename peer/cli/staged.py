"""Runs whose model is cut into stages, as people read of them.

Pure: fields in, text out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Who = Callable[[object], str]


def stage_lines(stages: Sequence[Mapping[str, Any]], who: Who) -> Iterator[str]:
    """A line for each stage: its share of the work, who serves it, how busy they are."""
    for stage in stages:
        replicas = [_replica(one, who) for one in stage["replicas"]]
        nobody = "no replica, left out" if stage.get("experts") else "no replica"
        kind = "experts" if stage.get("experts") else "stage"
        yield f"{kind} {stage['stage']} ({stage['share']:.0%} of the work): {', '.join(replicas) or nobody}"


def _replica(one: Mapping[str, Any], who: Who) -> str:
    if "queue" not in one:
        return who(one["account"])
    pace = f", {one['microbatch_ms']:g} ms a microbatch" if one["microbatch_ms"] else ""
    return f"{who(one['account'])} (queue {one['queue']}, busy {one['busy']:.0%}{pace})"


def line_of_stages(kind: str, event: Mapping[str, Any], at: str, who: Who) -> str | None:
    """An event as one line; None for those that are not about stages."""
    match kind:
        case "placed":
            return f"{who(event['account'])} is to serve stage {event['stage']}"
        case "moved":
            return f"{who(event['account'])} moves from stage {event['before']} to stage {event['stage']}"
        case "loaded":
            return f"{at}this peer holds stage {event['stage']}"
        case "undone":
            return f"{at}{event['microbatches']} microbatches were taken out again: others serve them"
        case "unfit":
            return f"{who(event['account'])} can serve no stage: {event.get('reason', '')}"
        case "masked":
            share = event["weakened"] / max(event["tokens"], 1)
            return f"{at}{share:.1%} of the tokens, counted in every layer, went without experts that nobody serves"
        case "void":
            return f"{at}does not count: it could not be brought to its end while {event.get('step', '?')}"
        case "waiting" if "missing" in event:
            return f"{at}waiting: {event['missing']}"
    return None
