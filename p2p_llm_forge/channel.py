"""The two ends of the worker's pipe: lines in, lines out from any thread.

IO: reads and writes file descriptors; ends the process when nobody reads its output any more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

from p2p_llm_forge import protocol

_READ_BYTES = 1 << 16


class Channel:
    """Reads requests from one descriptor and writes whole lines to another."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self._lock = threading.Lock()

    @classmethod
    def over_standard_streams(cls) -> Channel:
        """Take stdin and stdout; whatever else is printed goes to stderr from now on."""
        replies = os.dup(1)
        os.dup2(2, 1)
        return cls(0, replies)

    def send(self, value: dict[str, Any]) -> None:
        """Write one line; may be called from any thread."""
        rest = memoryview(protocol.line(value))
        try:
            with self._lock:
                while rest:
                    rest = rest[os.write(self._replies, rest) :]
        except OSError:
            os._exit(1)

    def lines(self) -> Iterator[bytes]:
        """Request lines until the end of input; one above the limit is given out as far as it was read.

        Not a buffered reader: its lock could not be taken when the interpreter exits while a thread waits in it.
        """
        rest = bytearray()
        while part := os.read(self._requests, _READ_BYTES):
            rest += part
            if b"\n" in part:
                *lines, rest = rest.split(b"\n")
                yield from map(bytes, lines)
            if len(rest) > protocol.LINE_LIMIT_BYTES:
                yield bytes(rest)
