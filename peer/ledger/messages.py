"""How replicas speak: requests and answers of the replica machine as RPC bodies, entries as framed bytes beside them.

`ledger.entries` carries its entries in tlog-tiles framing (u16 length, then the entry) as the payload of the answer.

Pure: values only; what is no such message is refused with a reason.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from ledger.errors import LedgerError
from ledger.evidence import MAX_BYTES as EVIDENCE_BYTES
from ledger.replica import values as replica
from ledger.tiles import parse_bundle, write_bundle
from peer.errors import MessageInvalid
from peer.messages import NoteText, Origin
from peer.wire import Hash, Message, Natural, Reply

Instance = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{32})?$")]
"""Names a store; empty where none is known yet."""
METHODS: dict[type[replica.Request], str] = {
    replica.HeadsSince: "ledger.heads",
    replica.EntriesOf: "ledger.entries",
    replica.EvidenceOf: "ledger.evidence",
}
"""The RPC method of each request."""


class HeadsRequest(Message):
    """`ledger.heads`: what was certified or accused after the cursor?"""

    instance: Instance
    cursor: Natural


class HeadsReply(Message):
    """Its answer: (origin, certified size) of logs, and accused logs, oldest first."""

    instance: Instance
    cursor: Natural
    heads: list[tuple[Origin, Natural]] = Field(max_length=replica.HEADS)
    evidence: list[Origin] = Field(max_length=replica.HEADS)

    @classmethod
    def read(cls, body: Any) -> HeadsReply:
        """Canonical JSON has arrays only: the pairs come as lists."""
        heads = body.get("heads") if isinstance(body, dict) else None
        if isinstance(heads, list):
            body = {**body, "heads": [tuple(pair) if isinstance(pair, list) else pair for pair in heads]}
        return super().read(body)


class EntriesRequest(Message):
    """`ledger.entries`: the certified entries [start, end) of a log, fewer where it or a message ends."""

    origin: Origin
    start: Natural
    end: Natural


class EntriesReply(Message):
    """Its answer beside the entries."""

    size: Natural
    """Certified size of the log."""
    certificate: NoteText
    proof: list[Hash] = Field(max_length=64)
    """Consistency of the log at the end of these entries with the certificate."""


class EvidenceRequest(Message):
    """`ledger.evidence`: proofs that a log's owner contradicted itself."""

    origin: Origin


class EvidenceReply(Message):
    """Its answer."""

    items: list[Annotated[str, StringConstraints(max_length=EVIDENCE_BYTES)]] = Field(max_length=8)


class ProofRequest(Message):
    """`ledger.proof`: one entry's tlog-proof, answered as `{"proof": text}`."""

    origin: Origin
    index: Natural


def body_of(request: replica.Request) -> dict[str, Any]:
    """The body of a request."""
    if isinstance(request, replica.HeadsSince):
        return {"instance": request.instance, "cursor": request.cursor}
    if isinstance(request, replica.EntriesOf):
        return {"origin": request.origin, "start": request.start, "end": request.end}
    return {"origin": request.origin}


def reply_of(answer: replica.Answer) -> Reply:
    """An answer as it is sent."""
    if isinstance(answer, replica.Heads):
        heads = [[origin, size] for origin, size in answer.heads]
        body = {"instance": answer.instance, "cursor": answer.cursor, "heads": heads, "evidence": [*answer.evidence]}
        return Reply(body)
    if isinstance(answer, replica.Entries):
        proof = [item.hex() for item in answer.proof]
        body = {"size": answer.size, "certificate": answer.certificate.decode(), "proof": proof}
        return Reply(body, write_bundle(answer.entries))
    return Reply({"items": [item.decode() for item in answer.items]})


def answer_of(request: replica.Request, reply: Reply) -> replica.Answer:
    """The answer that a peer sent.

    Raises:
        MessageInvalid: it is none to this request.
    """
    if isinstance(request, replica.EntriesOf):
        head = EntriesReply.read(reply.body)
        try:
            entries = tuple(parse_bundle(reply.payload))
        except LedgerError as exc:
            raise MessageInvalid(f"entries of {request.origin}: {exc}") from exc
        proof = tuple(bytes.fromhex(item) for item in head.proof)
        return replica.Entries(
            entries=entries, size=head.size, certificate=head.certificate.encode(), proof=proof
        )
    if reply.payload:
        raise MessageInvalid(f"{len(reply.payload)} bytes beside an answer that has none")
    if isinstance(request, replica.HeadsSince):
        heads = HeadsReply.read(reply.body)
        return replica.Heads(
            instance=heads.instance, cursor=heads.cursor, heads=tuple(heads.heads), evidence=tuple(heads.evidence)
        )
    return replica.Accusation(items=tuple(item.encode() for item in EvidenceReply.read(reply.body).items))
