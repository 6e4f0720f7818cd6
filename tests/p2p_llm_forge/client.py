"""Starts workers as real subprocesses and speaks their protocol, as the daemon does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

ROOT = Path(__file__).parents[2]


class Refusal(Exception):
    """An error reply."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code, self.message = code, message


def share(reply: dict[str, Any], mine: bool) -> dict[str, Any]:
    """A train reply as a contribution."""
    return {"path": reply["update"], "tokens": reply["tokens"], "mine": int(mine)}


def refused(client: Client, command: str, code: str, text: str, **fields: Any) -> None:
    """The request is refused with this code and text, in one line."""
    with pytest.raises(Refusal) as caught:
        client(command, **fields)
    assert caught.value.code == code, caught.value.message
    assert text in caught.value.message
    assert "\n" not in caught.value.message


class Client:
    """One worker; requests are answered in order unless `send` is used."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None, threads: int = 1) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "worker.log").open("wb")
        command = [sys.executable, "-m", "p2p_llm_forge.worker", "--folder", str(folder)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads), "--device", "cpu"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
        self.last = 0
        self.events: list[dict[str, Any]] = []
        self._ready: dict[str, Any] | None = None

    @property
    def ready(self) -> dict[str, Any]:
        """The first line; several workers start at the same time when nobody asks before."""
        if self._ready is None:
            self._ready = self._read()
        return self._ready

    def write(self, line: bytes) -> None:
        """Write a raw line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """The next line after the first, whatever it is."""
        assert self.ready["event"] == "ready"
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError((self.folder / "worker.log").read_text()[-4000:])
        value: dict[str, Any] = json.loads(line)
        return value

    def send(self, command: str, **fields: Any) -> int:
        """Send a request without waiting; returns its id."""
        self.last += 1
        self.write(json.dumps({"id": self.last, "do": command, **fields}).encode() + b"\n")
        return self.last

    def wait(self, request_id: int) -> dict[str, Any]:
        """The result of a request; events are collected. Other replies are not expected."""
        while True:
            value = self.read()
            if "event" in value:
                self.events.append(value)
                continue
            assert value["id"] == request_id, value
            if "error" in value:
                raise Refusal(**value["error"])
            result: dict[str, Any] = value["ok"]
            return result

    def __call__(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its result."""
        return self.wait(self.send(command, **fields))

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(20)
        self._finish()

    def _finish(self) -> None:
        self.process.wait(20)
        for stream in (self.process.stdin, self.process.stdout, self._log):
            assert stream is not None
            stream.close()
