"""What a driver and holders of experts say to each other, and what a holder does not take.

IO: none.
"""

from __future__ import annotations

from typing import Any, cast

import pytest

from p2p_llm_forge.stages.experts.requests import ExpertBackward
from p2p_llm_forge.stages.experts.shard_desk import digest
from peer.errors import MessageInvalid, Refused
from peer.runs.staged.expert_messages import Asked, Counted, ExpertBody
from peer.runs.staged.expert_serving import ExpertServing
from peer.runs.staged.expert_worker import ExpertWorker
from peer.runs.staged.messages import AttemptText
from peer.runs.staged.parcels import digest as sum_of
from peer.runs.staged.serving import Serving
from peer.stages.messages import NO_ATTEMPT, Kind, Refusal, Tag
from tests.peer.stages_kit import RUN, S0

TENSOR = b"12345678"


def body(**changes: Any) -> ExpertBody:
    """A backward call of layer 1."""
    fields = {
        "run": RUN, "call": "ab" * 16, "round": 1, "state": S0, "stage": 2, "microbatch": 3, "kind": "backward",
        "attempt": AttemptText.of(NO_ATTEMPT), "tokens": 64, "x": 8, "gradient": 8, "sum": sum_of(TENSOR, TENSOR),
        "layer": 1, "experts": [4, 5], "counts": [1, 1], **changes,
    }  # fmt: skip
    return ExpertBody(**fields)


def test_a_call_says_its_layer_and_the_count_of_a_microbatch_none() -> None:
    told = ExpertBody.read(body().body())
    assert told.tag() == Tag(round=1, state=S0, stage=2, microbatch=3, kind=Kind.BACKWARD, layer=1)
    count = body(layer=None, experts=[], counts=[], x=0, gradient=0, calls=[Counted(layer=0, sum="cd" * 32)])
    assert ExpertBody.read(count.body()) == count
    assert count.tag().layer == -1


@pytest.mark.parametrize(
    "change", [{"layer": -1}, {"layer": 1024}, {"experts": [-1]}, {"counts": ["1"]}, {"calls": [{"layer": 0}]},
               {"calls": [{"layer": 0, "sum": "x"}]}, {"kind": "count"}, {"experts": [0] * 4097}],
)  # fmt: skip
def test_a_malformed_call_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MessageInvalid):
        ExpertBody.read({**body().body(), **change})


def test_a_driver_and_the_worker_of_a_holder_reckon_the_same_sum() -> None:
    asked = Asked(holder="x", layer=1, experts=[4, 5], counts=[1, 2], x=b"tokens", gradient=b"gradients")
    request = ExpertBackward.model_construct(layer=1, experts=[4, 5], counts=[1, 2])
    assert asked.sum == digest(request, memoryview(b"tokens"), memoryview(b"gradients"))
    other = Asked(holder="x", layer=1, experts=[4, 5], counts=[2, 1], x=b"tokens", gradient=b"gradients")
    assert asked.sum != other.sum


class Machine:
    """Takes nothing."""

    def admit(self, tag: Tag, caller: str) -> Refusal:
        return Refusal(code="FP-452")


def holder(kind: type[Serving] = ExpertServing) -> Serving:
    """Of a peer that knows one driver."""
    accounts = {"driver": "ab" * 32}
    return kind(
        machine=cast(Any, Machine), worker=ExpertWorker.__new__(ExpertWorker), tell=lambda message: None,
        account_of=lambda caller: accounts.get(caller, ""),
    )  # fmt: skip


async def refused(told: ExpertBody, words: str, payload: bytes = TENSOR * 2, caller: str = "driver") -> None:
    with pytest.raises(Refused, match=words):
        await holder().on_expert(caller, told.body(), payload)


async def test_a_holder_refuses_what_is_no_call() -> None:
    await refused(body(), "not known to take part", caller="stranger")
    await refused(body(), "bytes came, not the 16", payload=TENSOR)
    await refused(body(sum="00" * 16), "bytes came, not the 16")
    await refused(body(stage=0), "stage 0 is the trunk")
    await refused(body(layer=None), "without a layer a microbatch is counted")
    await refused(body(kind="forward"), "8 bytes of tokens and 8 of gradients")
    await refused(body(gradient=0, sum=sum_of(TENSOR)), "8 bytes of tokens and 0 of gradients", payload=TENSOR)


async def test_what_the_machine_does_not_admit_is_answered_with_why() -> None:
    reply = await holder().on_expert("driver", body().body(), TENSOR * 2)
    assert reply.body["refusal"]["code"] == "FP-452"  # type: ignore[index, call-overload]


async def test_runs_of_one_kind_refuse_the_calls_of_the_other() -> None:
    with pytest.raises(Refused, match="places no experts"):
        await holder(Serving).on_expert("driver", body().body(), TENSOR * 2)
    with pytest.raises(Refused, match=r"ask with stage\.expert"):
        await holder().on_pass("driver", {}, b"")
