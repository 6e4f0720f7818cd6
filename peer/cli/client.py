"""A small blocking client of the daemon's gateway, for the CLI and the demo: only the standard library.

IO: connects to the socket of a home.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from peer.errors import ForgeError
from peer.gateway.address import find_socket

NOT_RUNNING = "FP-510"
CUT_SHORT = "FP-511"
ANSWER_S = 600.0
"""Generating or exporting with a large model may take long."""
SILENCE_S = 45.0
"""Event streams carry a heartbeat every 10 s."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Opens the socket."""
        if not self._path.exists():  # also where the path would be too long for a socket
            raise FileNotFoundError(self._path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


class Client:
    """Speaks to the daemon of one home. Every failure is a ForgeError."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def get(self, path: str, **query: object) -> Any:
        """The JSON answer of a GET."""
        return self._answer("GET", path, None, query)

    def post(self, path: str, **body: object) -> Any:
        """The JSON answer of a POST."""
        return self._answer("POST", path, body, {})

    def stream(
        self, method: str, path: str, body: Mapping[str, object] | None = None, **query: object
    ) -> Iterator[dict[str, Any]]:
        """The events of a route, as they come.

        Raises:
            ForgeError: the daemon does not run, refused, or ended the stream before it was complete.
        """
        connection, response = self._request(method, path, body, query, SILENCE_S)
        try:
            while line := response.readline():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
                elif line.startswith(b": end"):
                    return
        except (OSError, http.client.HTTPException) as exc:
            raise self._cut_short(path) from exc
        finally:
            connection.close()
        raise self._cut_short(path)

    def is_running(self) -> bool:
        """Whether a daemon answers."""
        try:
            self.get("/status")
        except ForgeError as exc:
            if exc.code == NOT_RUNNING:
                return False
            raise
        return True

    def _cut_short(self, path: str) -> ForgeError:
        fix = "see its log; is it still running?"
        return ForgeError(CUT_SHORT, f"the daemon in {self.home} ended {path} early", fix)

    def _answer(self, method: str, path: str, body: Mapping[str, object] | None, query: Mapping[str, object]) -> Any:
        connection, response = self._request(method, path, body, query, ANSWER_S)
        try:
            return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise self._cut_short(path) from exc
        finally:
            connection.close()

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None, query: Mapping[str, object], timeout_s: float
    ) -> tuple[_UnixConnection, http.client.HTTPResponse]:
        """Sends a request and reads the status; the caller closes the connection."""
        connection = _UnixConnection(find_socket(self.home), timeout_s)
        target = path + ("?" + urlencode(query) if query else "")
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, target, content, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _problem(response)
        except PermissionError as exc:
            connection.close()
            raise ForgeError(NOT_RUNNING, f"the daemon in {self.home} belongs to another user") from exc
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            connection.close()
            fix = f"start it: forge-peer start --home {self.home}"
            raise ForgeError(NOT_RUNNING, f"the daemon is not running in {self.home}", fix) from exc
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise self._cut_short(path) from exc
        except ForgeError:
            connection.close()
            raise
        return connection, response


def run_path(run: str, *rest: str) -> str:
    """The path of a run's route, whatever characters its name has."""
    return "/".join(["/jobs", quote(run, safe=""), *rest])


def _problem(response: http.client.HTTPResponse) -> ForgeError:
    """The error that a problem+json answer tells."""
    raw = response.read(1 << 20)
    try:
        told = json.loads(raw)
        return ForgeError(str(told["code"]), str(told["detail"]), str(told.get("fix", "")))
    except (ValueError, KeyError, TypeError):
        return ForgeError("FP-500", f"the daemon answered {response.status}: {raw[:200]!r}")
