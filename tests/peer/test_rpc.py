"""Answering requests: every failure reaches the caller as a code, and a bug reaches our own log as well."""

import asyncio
import logging

import pytest

from ledger.errors import LedgerError
from peer.errors import (
    BlobMissing,
    Busy,
    DeadlineExceeded,
    HandlerFailed,
    MessageInvalid,
    MethodUnknown,
    Oversize,
    Refused,
)
from peer.network.limits import Allowance, Limits
from peer.network.rpc import Body, Dispatcher, Event, log_event, write_request
from peer.wire import FRAME_LIMIT, Reply, unpack_reply


class Asked:
    """A dispatcher with one method whose handler is `self.handler`."""

    def __init__(self, limits: Limits | None = None, reply_bytes: int = 0) -> None:
        self.events: list[Event] = []
        self.dispatcher = Dispatcher(Allowance(limits or Limits()), self.events.append)
        self.dispatcher.add("do", self._handle, reply_bytes)
        self.error: BaseException | None = None
        self.reply = Reply({"n": 1}, b"raw")
        self.seen: tuple[str, Body, bytes] | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def _handle(self, caller: str, body: Body, payload: bytes) -> Reply:
        self.seen = (caller, body, payload)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.reply

    async def ask(self, frame: bytes | None = None, timeout_s: float = 1.0) -> Reply:
        return unpack_reply(
            await self.dispatcher.answer(frame or write_request("do", {"a": 2}, b"in", timeout_s), "them")
        )


async def code_of(asked: Asked, frame: bytes | None = None, timeout_s: float = 1.0) -> str:
    with pytest.raises(Refused) as caught:
        await asked.ask(frame, timeout_s)
    return caught.value.code


async def test_a_handler_gets_caller_body_and_payload_and_its_reply_goes_back() -> None:
    asked = Asked()
    assert await asked.ask() == asked.reply
    assert asked.seen == ("them", {"a": 2}, b"in")
    assert asked.dispatcher.calls["do"] == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BlobMissing("not here"), "FP-325"),
        (Refused("FP-422", "not you"), "FP-422"),
        (LedgerError("FP-230", "void"), "FP-230"),
    ],
)
async def test_what_a_handler_refuses_reaches_the_caller_with_its_code(error: Exception, code: str) -> None:
    asked = Asked()
    asked.error = error
    assert await code_of(asked) == code
    assert asked.events == []


@pytest.mark.parametrize(
    "error", [TypeError("bug"), KeyError("x"), OSError(5, "io"), ExceptionGroup("g", [ValueError()])]
)
async def test_a_bug_is_logged_here_and_told_there_without_its_details(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asked()
    asked.error = error
    with caplog.at_level(logging.ERROR), pytest.raises(Refused) as caught:
        await asked.ask()
    assert caught.value.code == HandlerFailed.CODE
    assert "bug" not in caught.value.message
    assert "Traceback" in caplog.text
    assert [event.kind for event in asked.events] == ["handler_failed"]
    assert asked.dispatcher.failures["do"] == 1


async def test_an_answer_that_cannot_be_sent_is_an_error_to_the_caller() -> None:
    asked = Asked()
    asked.reply = Reply({"loss": 0.5})
    assert await code_of(asked) == MessageInvalid.CODE
    asked.reply = Reply({}, bytes(2 << 20))
    assert await code_of(asked) == Oversize.CODE


async def test_a_handler_is_stopped_when_its_caller_no_longer_waits() -> None:
    asked = Asked()
    asked.gate.clear()
    assert await code_of(asked, timeout_s=0.01) == DeadlineExceeded.CODE
    assert asked.events == []


async def test_an_unknown_method_is_named() -> None:
    assert await code_of(Asked(), write_request("nope", {}, b"", 1.0)) == MethodUnknown.CODE


@pytest.mark.parametrize("frame", [b"x", b"F1", b"F1\0\0\0\2{}", b"F1\0\0\0\1{", b"\0" * 100])
async def test_nonsense_is_refused(frame: bytes) -> None:
    asked = Asked()
    assert await code_of(asked, frame) == MessageInvalid.CODE
    assert asked.seen is None


async def test_an_oversize_request_is_refused_before_it_is_parsed_or_paid_for() -> None:
    asked = Asked()
    assert await code_of(asked, bytes(FRAME_LIMIT + 1)) == Oversize.CODE


async def test_a_flood_is_refused_and_leaves_no_memory_held() -> None:
    asked = Asked(Limits(requests_per_s=1, burst_requests=3))
    for _ in range(3):
        await asked.ask()
    assert await code_of(asked) == Busy.CODE
    assert asked.dispatcher._allowance._held_bytes == 0


async def test_the_memory_of_answers_is_bounded_too() -> None:
    asked = Asked(Limits(in_flight_bytes=1000), reply_bytes=800)
    asked.gate.clear()
    first = asyncio.create_task(asked.ask())
    while asked.seen is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert await code_of(asked) == Busy.CODE
    asked.gate.set()
    assert await first == asked.reply


async def test_a_method_is_served_once() -> None:
    asked = Asked()
    with pytest.raises(ValueError, match="already"):
        asked.dispatcher.add("do", asked._handle, 0)
    asked.dispatcher.remove("do")
    assert await code_of(asked) == MethodUnknown.CODE


def test_events_go_to_the_log_by_default(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_event(Event(kind="bad_chunk", peer_id="p", detail={"blob": "b"}))
    assert "bad_chunk peer=p blob='b'" in caplog.text
