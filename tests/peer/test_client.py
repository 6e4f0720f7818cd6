"""The client says clearly when no daemon answers, or when one stops in mid-answer.

IO: unix sockets of this test.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peer.cli.client import Client, run_path
from peer.errors import ForgeError


@contextmanager
def answering(home: Path, answer: bytes) -> Iterator[None]:
    """A socket that gives one connection these bytes and hangs up."""
    (home / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(home / "run" / "api.sock"))
        listener.listen(1)

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        yield
        thread.join(5)


def test_no_daemon_is_said_with_the_home_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="not running") as missing:
        Client(tmp_path).get("/status")
    assert missing.value.code == "FP-510"
    assert str(tmp_path) in missing.value.message
    assert "forge-peer start" in missing.value.fix
    assert not Client(tmp_path).is_running()


def test_a_stale_socket_is_no_daemon(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "run" / "api.sock"))
    assert not Client(tmp_path).is_running()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
    ],
)
def test_an_answer_cut_short_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path, answer), pytest.raises(ForgeError, match="early"):
        Client(tmp_path).get("/status")


def test_a_stream_without_its_end_marker_is_an_error(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    with answering(tmp_path, head + b'data: {"event":"opened"}\n\n'):
        events = Client(tmp_path).stream("GET", "/jobs/x/events")
        assert next(events) == {"event": "opened"}
        with pytest.raises(ForgeError, match="early") as cut:
            next(events)
    assert cut.value.code == "FP-511"


def test_a_foreign_error_page_is_still_one_error(tmp_path: Path) -> None:
    page = b"HTTP/1.1 500 Oops\r\nContent-Length: 5\r\n\r\n<html"
    with answering(tmp_path, page), pytest.raises(ForgeError, match="answered 500"):
        Client(tmp_path).get("/status")


def test_any_run_name_makes_one_path_segment() -> None:
    assert run_path("a b/c?d", "events") == "/jobs/a%20b%2Fc%3Fd/events"
