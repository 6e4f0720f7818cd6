"""A pass at another peer: what it is given goes there, in parts where it is long, and what came of it comes back.

IO: calls over the network.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from peer.errors import MessageInvalid
from peer.network.network import Network
from peer.runs.staged.bodies import LookBody, MoreBody, PartBody, PassAnswer, PassBody
from peer.runs.staged.messages import AttemptText
from peer.runs.staged.parcels import digest, parts_of
from peer.stages.messages import Tag
from peer.wire import PAYLOAD_LIMIT

TIMEOUT_S = 120.0
"""The driver's machine gives a call up long before."""
AT_ONCE = 4
"""Parts of one tensor that are under way."""

T = TypeVar("T")


async def ask(
    network: Network, peer: str, run: str, tag: Tag, *, tokens: int, x: bytes, gradient: bytes, most_bytes: int
) -> tuple[PassAnswer, bytes]:
    """Have a peer make a pass.

    Args:
        network: libp2p.
        peer: its PeerID.
        run: the run's id.
        tag: what for.
        tokens: of the microbatch that have a target.
        x: the input; empty where the peer has it from the forward pass.
        gradient: of the output, or the targets; empty for a forward pass.
        most_bytes: of what comes back.

    Raises:
        NetworkError: it cannot be reached, refuses, or answers nonsense.
    """
    call, given = secrets.token_hex(16), x + gradient
    body = PassBody(
        run=run, call=call, round=tag.round, state=tag.state, stage=tag.stage, microbatch=tag.microbatch,
        kind=tag.kind.value, attempt=AttemptText.of(tag.attempt), tokens=tokens, x=len(x), gradient=len(gradient),
        sum=digest(given),
    )  # fmt: skip
    return await carry(network, peer, "stage.pass", body, given, most_bytes)


async def look(
    network: Network, peer: str, run: str, state: str, *, x: bytes, targets: bytes
) -> tuple[PassAnswer, bytes]:
    """Have a peer look at held-out samples with its stage's `state`; `targets` for the last stage. Raises as `ask`."""
    call, given = secrets.token_hex(16), x + targets
    body = LookBody(run=run, call=call, state=state, x=len(x), targets=len(targets), sum=digest(given))
    return await carry(network, peer, "stage.look", body, given, len(x))


async def carry(
    network: Network, peer: str, method: str, body: PassBody | LookBody, given: bytes, most_bytes: int, *,
    timeout_s: float = TIMEOUT_S,
) -> tuple[PassAnswer, bytes]:  # fmt: skip
    """Send what is given, in parts if it is long, and fetch what comes of it."""
    run, call, payload = body.run, body.call, given
    if len(given) > PAYLOAD_LIMIT:
        payload = b""

        async def send(index: int) -> None:
            part = given[index * PAYLOAD_LIMIT : (index + 1) * PAYLOAD_LIMIT]
            told = PartBody(run=run, call=call, index=index, bytes=len(given)).body()
            await network.exchange(peer, "stage.part", told, payload=part, timeout_s=TIMEOUT_S)

        await _some_at_once(send, range(parts_of(len(given))))
    reply = await network.exchange(
        peer, method, body.body(), payload=payload, timeout_s=timeout_s, expects=PAYLOAD_LIMIT
    )
    answer = PassAnswer.read(reply.body)
    if answer.refusal is not None:
        return answer, b""
    if answer.bytes > most_bytes:
        raise MessageInvalid(f"{method}: {answer.bytes} bytes came of it, {most_bytes} are wanted")

    async def fetch(index: int) -> bytes:
        more = MoreBody(run=run, call=call, index=index).body()
        return (await network.exchange(peer, "stage.more", more, timeout_s=TIMEOUT_S, expects=PAYLOAD_LIMIT)).payload

    data = b"".join([reply.payload, *await _some_at_once(fetch, range(1, parts_of(answer.bytes)))])
    if len(data) != answer.bytes or digest(data) != answer.sum:
        raise MessageInvalid(f"{method}: {len(data)} bytes came, not the {answer.bytes} that were told")
    return answer, data


async def _some_at_once(work: Callable[[int], Awaitable[T]], indices: range) -> list[T]:
    """Do this for every index, a few at a time; what fails first is raised, and the rest is given up."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(index: int) -> T:
        async with turns:
            return await work(index)

    tasks = [asyncio.ensure_future(one(index)) for index in indices]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
