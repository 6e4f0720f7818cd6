"""A pass at another peer: what it is given goes there, in parts where it is long, and what came of it comes back.

IO: calls over the network.
"""

from __future__ import annotations

import secrets

from peer.errors import MessageInvalid
from peer.network.network import Network
from peer.runs.staged.messages import AttemptText, MoreBody, PartBody, PassAnswer, PassBody
from peer.runs.staged.parcels import digest, parts_of
from peer.stages.messages import Tag
from peer.wire import PAYLOAD_LIMIT

TIMEOUT_S = 120.0
"""The driver's machine gives a call up long before."""


async def ask(
    network: Network, peer: str, run: str, tag: Tag, *, tokens: int, x: bytes, gradient: bytes
) -> tuple[PassAnswer, bytes]:
    """Have a peer make a pass.

    Raises:
        NetworkError: it cannot be reached, refuses, or answers nonsense.
    """
    call, given = secrets.token_hex(16), x + gradient
    return await send(network, peer, "stage.pass", PassBody(
        run=run, call=call, round=tag.round, state=tag.state, stage=tag.stage, microbatch=tag.microbatch,
        kind=tag.kind.value, attempt=AttemptText.of(tag.attempt), tokens=tokens, x=len(x), gradient=len(gradient),
        sum=digest(given),
    ), given)  # fmt: skip


async def send(network: Network, peer: str, method: str, body: PassBody, given: bytes) -> tuple[PassAnswer, bytes]:
    """Ask for a pass that was described; `given` is input and gradient. Raises NetworkError."""
    run, call = body.run, body.call
    payload = given
    if len(given) > PAYLOAD_LIMIT:
        payload = b""
        for index in range(parts_of(len(given))):
            part = given[index * PAYLOAD_LIMIT : (index + 1) * PAYLOAD_LIMIT]
            told = PartBody(run=run, call=call, index=index, bytes=len(given)).body()
            await network.exchange(peer, "stage.part", told, payload=part, timeout_s=TIMEOUT_S)
    reply = await network.exchange(
        peer, method, body.body(), payload=payload, timeout_s=TIMEOUT_S, expects=PAYLOAD_LIMIT
    )
    answer, found = PassAnswer.read(reply.body), [reply.payload]
    if answer.refusal is not None:
        return answer, b""
    if answer.bytes > body.x:
        raise MessageInvalid(f"{method}: {answer.bytes} bytes came of {body.x}")
    for index in range(1, parts_of(answer.bytes)):
        more = MoreBody(run=run, call=call, index=index).body()
        reply = await network.exchange(peer, "stage.more", more, timeout_s=TIMEOUT_S, expects=PAYLOAD_LIMIT)
        found.append(reply.payload)
    data = b"".join(found)
    if len(data) != answer.bytes or digest(data) != answer.sum:
        raise MessageInvalid(f"{method}: {len(data)} bytes came, not the {answer.bytes} that were told")
    return answer, data
