"""The gateway answers in JSON, events and problems, on a socket that only this user may open, and stops fast.

IO: a unix socket, served from a thread.
"""

import json
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from peer.cli.client import Client
from peer.errors import ForgeError
from peer.gateway.address import MAX_PATH_BYTES, claimed_socket, find_socket
from tests.peer.gateway_fake import EVENTS, ME, RUN_A, RUN_B, running_gateway


def test_the_socket_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with running_gateway(tmp_path):
        path = find_socket(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert Client(tmp_path).get("/status")["account"] == ME
    assert not path.exists()


def test_a_home_with_a_long_path_uses_a_short_private_socket(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    with running_gateway(home):
        path = find_socket(home)
        assert path != home / "run" / "api.sock"
        assert len(bytes(path)) <= MAX_PATH_BYTES
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert Client(home).is_running()
    assert not path.parent.exists()
    assert not Client(home).is_running()


def test_what_a_killed_daemon_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "api.sock").write_text("left")
    with claimed_socket(tmp_path) as path:
        assert not path.exists()


def test_a_pause_takes_seconds_within_a_year(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as node:
        client = Client(tmp_path)
        assert client.post("/pause", seconds=60)["paused"]["until"] == 1060.0
        assert client.post("/pause")["paused"]["until"] is None
        for wrong in ({"seconds": 0}, {"seconds": 1e9}, {"seconds": "soon"}, {"for": 60}):
            with pytest.raises(ForgeError) as refused:
                client.post("/pause", **wrong)
            assert refused.value.code == "FP-530"
        assert node.asked == [("pause", 60.0), ("pause", None)]


def test_runs_are_found_by_unique_prefix_and_by_name(tmp_path: Path) -> None:
    with running_gateway(tmp_path):
        client = Client(tmp_path)
        assert client.get("/jobs/a1")["run"] == RUN_A
        assert client.get("/jobs/big")["run"] == RUN_B
        with pytest.raises(ForgeError, match="could be any of") as ambiguous:
            client.get("/jobs/a")
        assert ambiguous.value.code == "FP-409"
        with pytest.raises(ForgeError, match="not known here") as unknown:
            client.get("/jobs/ff")
        assert unknown.value.code == "FP-404"


def test_events_come_in_order_and_end(tmp_path: Path) -> None:
    with running_gateway(tmp_path):
        assert list(Client(tmp_path).stream("GET", f"/jobs/{RUN_A}/events", follow=1)) == EVENTS


def test_a_submission_streams_its_progress_and_its_error(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as node:
        client = Client(tmp_path)
        good = list(client.stream("POST", "/jobs/submit", {"spec": {"name": "tiny"}}))
        assert [event["event"] for event in good] == ["progress", "submitted"]
        assert node.asked == [("submit", {"name": "tiny"})]
        bad = list(client.stream("POST", "/jobs/submit", {"spec": {"name": "broken"}}))
        assert bad[-1] == {"event": "error", "code": "FP-402", "message": "the run cannot start", "fix": "mend it"}


def test_closing_cuts_open_streams_within_a_second_and_the_reader_knows(tmp_path: Path) -> None:
    seen, errors = [], []
    first = threading.Event()

    def follow() -> None:
        try:
            for event in Client(tmp_path).stream("GET", f"/jobs/{RUN_B}/events", follow=1):
                seen.append(event)
                first.set()
        except ForgeError as exc:
            errors.append(exc)

    reader = threading.Thread(target=follow)
    with running_gateway(tmp_path):
        reader.start()
        assert first.wait(10)
        started = time.monotonic()
    assert time.monotonic() - started < 1.0
    reader.join(5)
    assert seen == EVENTS[:-1]
    assert [exc.code for exc in errors] == ["FP-511"]


def test_errors_are_problems_with_code_and_fix(tmp_path: Path) -> None:
    with running_gateway(tmp_path):
        client = Client(tmp_path)
        with pytest.raises(ForgeError, match="only its leader") as refused:
            client.post(f"/jobs/{RUN_B}/cancel")
        assert (refused.value.code, refused.value.fix) == ("FP-405", "ask the leader")
        with pytest.raises(ForgeError, match="tokens") as invalid:
            client.post(f"/jobs/{RUN_A}/generate", prompt="Once", tokens=0)
        assert invalid.value.code == "FP-530"
        with pytest.raises(ForgeError, match="Not Found"):
            client.get("/nothing/here")
        with pytest.raises(ForgeError, match="colour"):
            client.post(f"/jobs/{RUN_A}/export", to="/x", colour=1)
        with pytest.raises(ForgeError, match="round"):
            client.post(f"/jobs/{RUN_A}/export", to="/x", round=-1)


def test_every_route_reaches_the_node(tmp_path: Path) -> None:
    with running_gateway(tmp_path) as node:
        client = Client(tmp_path)
        assert client.get("/nodes")[0]["account"] == ME
        assert client.get("/tokens/balance/me")["balance"] == 1_500_000
        assert client.post(f"/jobs/{RUN_A}/export", to="/m")["files"] == ["model.safetensors"]
        assert client.post(f"/jobs/{RUN_A}/generate", prompt="Once")["text"] == " and so on"
        how = {"prompt": "Once", "tokens": 40, "temperature": 0.8, "top_k": 40, "seed": 0}
        assert node.asked[-1] == ("generate", RUN_A, how)
        assert client.post("/shutdown") == {"stopping": True}
        assert node.stopping.wait(5)


def test_the_process_keeps_its_signal_handlers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with running_gateway(tmp_path):
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_events_are_one_line_of_json_each() -> None:
    from peer.gateway.events import encode

    framed = encode({"event": "x", "text": "two\nlines"})
    assert framed.count(b"\n") == 2
    assert json.loads(framed.removeprefix(b"data: "))["text"] == "two\nlines"
