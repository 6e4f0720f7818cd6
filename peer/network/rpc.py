"""Answering requests: size caps, allowance, strict parsing, the handler with a deadline, every failure made visible.

A handler is `async (caller PeerID, body) -> body`, or with payloads `async (caller, body, payload) -> Reply`. What it
raises on purpose reaches the caller as a code and a message; a programming error reaches the caller without its
details, and our own log and events with them.

IO: only what the handlers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ledger.errors import LedgerError
from peer.errors import DeadlineExceeded, ForgeError, HandlerFailed, MethodUnknown, Oversize
from peer.network.limits import Allowance
from peer.network.traffic import Traffic
from peer.wire import FRAME_LIMIT, Reply, Request, check, pack, pack_error, pack_reply, unpack

log = logging.getLogger(__name__)

Body = dict[str, Any]
"""A canonical-able JSON object."""
Handler = Callable[[str, Body], Awaitable[Body]]
"""(PeerID of the caller, body) -> body of the answer."""
BytesHandler = Callable[[str, Body, bytes], Awaitable[Reply]]
"""(PeerID of the caller, body, payload) -> answer."""

_RECENT = 64
MAX_TIMEOUT_S = 600.0
"""No handler runs longer, whatever the caller asks."""
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ExceptionGroup, ImportError, LookupError,
    MemoryError, NameError, OSError, RuntimeError, StopAsyncIteration, SyntaxError, SystemError, TypeError, ValueError,
    sqlite3.Error,
)  # fmt: skip
"""What a broken handler raises; each is a bug or a broken machine, never an answer."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that the operator may want to see."""

    kind: str
    """A word with underscores: bootstrap_unreachable, handler_failed, bad_chunk, p2pd_restarted …"""
    peer_id: str = ""
    """The other side, where there is one."""
    detail: dict[str, str | int | float] = field(default_factory=dict)
    """What else is known."""


OnEvent = Callable[[Event], None]


class Events:
    """Tells everybody who listens."""

    def __init__(self, *listeners: OnEvent) -> None:
        """These are told first."""
        self._listeners = list(listeners)
        self._recent: deque[Event] = deque(maxlen=_RECENT)

    def listen(self, listener: OnEvent) -> None:
        """Tell this one too, and what happened of late."""
        self._listeners.append(listener)
        for event in self._recent:
            listener(event)

    def __call__(self, event: Event) -> None:
        """It happened."""
        self._recent.append(event)
        for listener in self._listeners:
            listener(event)


def log_event(event: Event) -> None:
    """Where events go unless told otherwise."""
    log.info("%s peer=%s %s", event.kind, event.peer_id, " ".join(f"{k}={v!r}" for k, v in event.detail.items()))


class Dispatcher:
    """The methods that this peer serves, and how often each failed."""

    def __init__(self, allowance: Allowance, on_event: OnEvent, traffic: Traffic | None = None) -> None:
        self._allowance = allowance
        self._traffic = traffic or Traffic()
        self._on_event = on_event
        self._methods: dict[str, tuple[BytesHandler, int]] = {}
        self._bulk: set[str] = set()
        self.calls: Counter[str] = Counter()
        """Requests by method."""
        self.failures: Counter[str] = Counter()
        """Handler faults by method."""

    def add(self, method: str, handler: BytesHandler, reply_bytes: int, *, bulk: bool = False) -> None:
        """Serves a method; `reply_bytes` is the memory to set aside for its answer, `bulk` ones go last."""
        if method in self._methods:
            raise ValueError(f"method {method!r} is served already")
        self._methods[method] = (handler, reply_bytes)
        if bulk:
            self._bulk.add(method)

    def remove(self, method: str) -> None:
        """Stops serving it."""
        self._methods.pop(method, None)

    async def answer(self, frame: bytes, caller: str) -> bytes:
        """The response frame to a request frame; never raises what a remote peer can cause."""
        size = len(frame)
        self._traffic.down.count(size)
        try:
            if size > FRAME_LIMIT:
                raise Oversize(f"a request of {size} bytes, the limit is {FRAME_LIMIT}")
            self._allowance.enter(caller, size, time.monotonic())
        except ForgeError as exc:
            if refused := self._allowance.flood(caller, time.monotonic()):
                detail: dict[str, str | int | float] = {"reason": exc.message, "refused": refused}
                self._on_event(Event(kind="flood", peer_id=caller, detail=detail))
            return pack_error(exc)
        reply_bytes = 0
        try:
            request, payload = read_request(frame)
            reserved = self._methods.get(request.method, (None, 0))[1]
            with self._allowance.reserve(caller, reserved):
                response = pack_reply(await self.run(caller, request, payload))
                await self._send(caller, request, len(response))
            reply_bytes = len(response)
            return response
        except ForgeError as exc:
            return pack_error(exc)
        finally:
            self._allowance.leave(caller, size, reply_bytes)

    async def _send(self, caller: str, request: Request, size: int) -> None:
        """Waits until an answer may go; raises Busy or DeadlineExceeded where too much waits."""
        wait_s = min(request.timeout_ms / 1000, MAX_TIMEOUT_S)
        async with deadline(f"{request.method}: the line", wait_s):
            await self._traffic.up.send(caller, size, bulk=request.method in self._bulk, bounded=True)

    async def run(self, caller: str, request: Request, payload: bytes) -> Reply:
        """Runs the handler of one request under its deadline.

        Raises:
            ForgeError: what the caller is to be told.
        """
        method = request.method
        handler, _ = self._methods.get(method, (None, 0))
        if handler is None:
            raise MethodUnknown(f"method {method!r} is not served here", "compare the versions of both peers")
        self.calls[method] += 1
        timeout_s = min(request.timeout_ms / 1000, MAX_TIMEOUT_S)
        try:
            async with asyncio.timeout(timeout_s) as scope:
                return await handler(caller, request.body, payload)
        except ForgeError:
            raise
        except LedgerError as exc:
            raise ForgeError(exc.code, exc.message) from exc
        except _FAULTS as exc:
            if isinstance(exc, TimeoutError) and scope.expired():
                raise DeadlineExceeded(f"{method}: not done within {timeout_s:g} s") from exc
            self.failures[method] += 1
            log.exception("handler_failed method=%s caller=%s", method, caller)
            detail: dict[str, str | int | float] = {"method": method, "error": f"{type(exc).__name__}: {exc}"[:500]}
            self._on_event(Event(kind="handler_failed", peer_id=caller, detail=detail))
            raise HandlerFailed(f"{method}: a fault on the side of the peer that was asked; its log says more") from exc


@contextlib.asynccontextmanager
async def deadline(what: str, timeout_s: float) -> AsyncIterator[None]:
    """Raises DeadlineExceeded, naming `what`, where the body takes longer."""
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            yield
    except TimeoutError as exc:
        if not scope.expired():
            raise
        raise DeadlineExceeded(f"{what}: no answer within {timeout_s:g} s") from exc


def read_request(frame: bytes) -> tuple[Request, bytes]:
    """Raises MessageInvalid or Oversize."""
    head, payload = unpack(frame)
    return check(Request, head), payload


def write_request(method: str, body: Body, payload: bytes, timeout_s: float) -> bytes:
    """A request frame; raises MessageInvalid or Oversize."""
    timeout_ms = max(1, min(int(timeout_s * 1000), int(MAX_TIMEOUT_S * 1000)))
    return pack({"method": method, "body": body, "timeout_ms": timeout_ms}, payload)
