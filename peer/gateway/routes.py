"""The routes of the gateway: each one checks its input, calls one method of the node and answers in JSON or events.

IO: only through the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ledger.errors import LedgerError
from p2p_llm_forge.errors import EngineError
from peer.absence import MOST_S
from peer.errors import ForgeError, RunError
from peer.gateway.events import Event, stream
from peer.wire import Account

if TYPE_CHECKING:
    from peer.node import Node

UNKNOWN_RUN = "FP-404"
AMBIGUOUS_RUN = "FP-409"

router = APIRouter()
Answer = dict[str, Any]


class Body(BaseModel):
    """What a request may carry; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Submission(Body):
    """A run to start."""

    spec: dict[str, Any]
    """The run spec with an absolute `data.path`."""
    spec_text: str = Field(default="", max_length=1 << 20)
    """The YAML it was read from, kept beside the run."""
    leaders: list[Account] | None = Field(default=None, max_length=15)
    """Accounts that may lead beside the submitter, in this order; by default, the witnesses that are willing."""


class Export(Body):
    """Where a model shall be written."""

    to: str = Field(min_length=1, max_length=4096)
    """An absolute folder of this machine."""
    round: int | None = Field(default=None, ge=0, lt=1 << 53)
    """After which round; the newest state here when left out."""


class Prompt(Body):
    """What to generate from."""

    prompt: str = Field(max_length=100_000)
    """The text to go on from."""
    tokens: int = Field(default=40, ge=1, le=10_000)
    """How many tokens to add, at most."""
    temperature: float = Field(default=0.8, ge=0, le=10)
    """0 takes the likeliest token each time."""
    top_k: int = Field(default=40, ge=0)
    """Draw among this many tokens; 0 draws among all."""
    seed: int = Field(default=0, ge=0, lt=1 << 53)
    """Equal seeds give equal text."""


class Rest(Body):
    """For how long this peer shall not train."""

    seconds: float | None = Field(default=None, gt=0, le=MOST_S)
    """Until it is resumed when left out."""


def the_node(request: Request) -> Node:
    """The node this gateway speaks for."""
    node: Node = request.app.state.node
    return node


def the_closing(request: Request) -> asyncio.Event:
    """Set when the gateway is about to stop."""
    closing: asyncio.Event = request.app.state.closing
    return closing


async def the_run(run: str, request: Request) -> str:
    """The full id of the run that a path names by id, unique prefix or name."""
    jobs = await the_node(request).jobs()
    exact = [job["run"] for job in jobs if job["run"] == run or job.get("name") == run]
    found = exact or [job["run"] for job in jobs if run and job["run"].startswith(run)]
    if not found:
        raise RunError(UNKNOWN_RUN, f"run {run!r} is not known here", "`forge-peer runs` lists the runs")
    if len(found) > 1:
        ids = ", ".join(sorted(item[:12] for item in found))
        raise RunError(AMBIGUOUS_RUN, f"run {run!r} could be any of {ids}", "give more of the id")
    return str(found[0])


TheNode = Annotated[Any, Depends(the_node)]
TheRun = Annotated[str, Depends(the_run)]
TheClosing = Annotated[asyncio.Event, Depends(the_closing)]


async def ending_in_an_error(source: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The source; if it fails, its last event says why, since the status line has long been sent."""
    try:
        async for event in source:
            yield event
    except (ForgeError, LedgerError, EngineError) as exc:
        yield {"event": "error", "code": exc.code, "message": exc.message, "fix": getattr(exc, "fix", "")}


@router.get("/status")
async def status(node: TheNode) -> Answer:
    """This peer: identity, network, addresses, workers."""
    answer: Answer = await node.status()
    return answer


@router.post("/pause")
async def pause(body: Rest, node: TheNode) -> Answer:
    """Trains no more, for a while or until it is resumed; a training under way ends with its current step."""
    answer: Answer = await node.pause(body.seconds)
    return answer


@router.post("/resume")
async def resume(node: TheNode) -> Answer:
    """Trains again."""
    answer: Answer = await node.resume()
    return answer


@router.get("/nodes")
async def nodes(node: TheNode) -> list[Answer]:
    """The peers that are known now."""
    answer: list[Answer] = await node.peers()
    return answer


@router.get("/witnesses")
async def witnesses(node: TheNode) -> list[Answer]:
    """The witnesses of the network, and whether they answer just now."""
    answer: list[Answer] = await node.witnesses()
    return answer


@router.post("/jobs/submit")
async def submit(body: Submission, node: TheNode, closing: TheClosing) -> StreamingResponse:
    """Starts a run; the events tell the preparation, the last one is `submitted` or `error`."""
    return stream(ending_in_an_error(node.submit(body.spec, body.leaders)), closing)


@router.get("/jobs")
async def jobs(node: TheNode) -> list[Answer]:
    """The runs known here, oldest first."""
    answer: list[Answer] = await node.jobs()
    return answer


@router.get("/jobs/{run}")
async def job(run: TheRun, node: TheNode) -> Answer:
    """One run."""
    answer: Answer = await node.job(run)
    return answer


@router.get("/jobs/{run}/events")
async def events(run: TheRun, node: TheNode, closing: TheClosing, follow: bool = False) -> StreamingResponse:
    """What happened in a run; with `follow` also what happens from now on, until it closes."""
    return stream(ending_in_an_error(node.events(run, follow)), closing)


@router.post("/jobs/{run}/cancel")
async def cancel(run: TheRun, node: TheNode) -> Answer:
    """Closes a run that this peer leads."""
    answer: Answer = await node.cancel(run)
    return answer


@router.post("/jobs/{run}/export")
async def export(run: TheRun, body: Export, node: TheNode) -> Answer:
    """Writes the model as a Hugging Face folder with a proof of where it comes from."""
    answer: Answer = await node.export(run, body.to, body.round)
    return answer


@router.post("/jobs/{run}/generate")
async def generate(run: TheRun, body: Prompt, node: TheNode) -> Answer:
    """Text from the run's newest state."""
    answer: Answer = await node.generate(run, **body.model_dump())
    return answer


@router.get("/tokens/balance/{account}")
async def balance(account: str, node: TheNode) -> Answer:
    """The credits of an account in micro-credits; `me` is this peer's own."""
    answer: Answer = await node.balance(account)
    return answer


@router.post("/shutdown")
async def shutdown(node: TheNode) -> Answer:
    """Ends the daemon cleanly."""
    await node.shutdown()
    return {"stopping": True}
