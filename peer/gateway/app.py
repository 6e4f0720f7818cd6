"""Serves the routes inside the daemon's event loop, on a unix socket with mode 0600; no TCP port, no signal handlers.

Every error is an RFC 9457 problem: {type, title, status, detail, code, fix}.

IO: the unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ledger.errors import LedgerError
from p2p_llm_forge.errors import EngineError
from peer.errors import ForgeError
from peer.gateway.address import claimed_socket
from peer.gateway.routes import AMBIGUOUS_RUN, UNKNOWN_RUN, router

if TYPE_CHECKING:
    from peer.node import Node

BAD_REQUEST = "FP-530"
STATUS_BY_CODE = {UNKNOWN_RUN: 404, AMBIGUOUS_RUN: 409}
STATUS_BY_FAMILY = {"FP-1": 422, "FP-2": 409, "FP-3": 503, "FP-4": 409, "FP-5": 500}


def problem(status: int, code: str, detail: str, fix: str = "") -> JSONResponse:
    """An RFC 9457 answer."""
    content = {
        "type": f"urn:p2p-llm-forge:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "fix": fix,
    }
    return JSONResponse(content, status_code=status, media_type="application/problem+json")


async def known_error(_request: Request, exc: Exception) -> JSONResponse:
    """An error of ours."""
    assert isinstance(exc, ForgeError | LedgerError | EngineError)
    status = STATUS_BY_CODE.get(exc.code) or STATUS_BY_FAMILY.get(exc.code[:4], 500)
    return problem(status, exc.code, exc.message, getattr(exc, "fix", ""))


async def bad_body(_request: Request, exc: Exception) -> JSONResponse:
    """A body or parameter that does not fit."""
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem(422, BAD_REQUEST, f"{where}: {first['msg']}")


async def bad_route(_request: Request, exc: Exception) -> JSONResponse:
    """No such path, or not with that method."""
    assert isinstance(exc, HTTPException)
    return problem(exc.status_code, BAD_REQUEST, str(exc.detail))


async def our_fault(_request: Request, exc: Exception) -> JSONResponse:
    """A bug; the daemon's log has the trace, because the server raises it again."""
    return problem(500, "FP-500", f"{type(exc).__name__}: {exc}", "see the daemon's log")


def make_app(node: Node) -> FastAPI:
    """The application for one node."""
    app = FastAPI(title="P2P-LLM-Forge", docs_url=None, redoc_url=None)
    app.state.node = node
    app.state.closing = asyncio.Event()
    app.include_router(router)
    for kind in (ForgeError, LedgerError, EngineError):
        app.add_exception_handler(kind, known_error)
    app.add_exception_handler(RequestValidationError, bad_body)
    app.add_exception_handler(HTTPException, bad_route)
    app.add_exception_handler(Exception, our_fault)
    return app


class Server(uvicorn.Server):
    """A uvicorn that says when it listens and leaves the process's signals to the daemon."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen."""
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def listen(path: Path) -> socket.socket:
    """A listening unix socket that only this user may open."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(64)
    listener.setblocking(False)
    return listener


@contextlib.asynccontextmanager
async def serve(node: Node, home: Path) -> AsyncIterator[Path]:
    """Answers on the home's socket while the block runs; open event streams are cut when it ends."""
    app = make_app(node)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", http="h11", ws="none", timeout_graceful_shutdown=1
    )
    server = Server(config)
    with claimed_socket(home) as path, listen(path) as listener:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]), name="gateway")
            await server.ready.wait()
            try:
                yield path
            finally:
                app.state.closing.set()
                server.should_exit = True
