"""`forge-peer` prints what people and programs need, and tells every error in one line with a code.

IO: a fake node's gateway; one subprocess for the start-up time.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from peer.cli.base import call
from peer.cli.main import forge_peer
from peer.cli.screen import screen
from peer.cli.view import RunView
from tests.peer.gateway_fake import EVENTS, ME, RUN_A, RUN_B, running_gateway

Cli = Callable[..., tuple[int, str, str]]

SPEC = """\
name: tiny
model: {family: gpt2, layers: 1, hidden_size: 16, heads: 2}
data: {path: corpus.txt, sequence_length: 32, tokenizer: {kind: bytes}}
training: {rounds: 2}
"""


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Runs a command line in this process; gives exit status, output and errors. The home is `tmp_path`."""
    monkeypatch.setenv("FORGE_HOME", str(tmp_path))

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["forge-peer", *map(str, words)])
        status = call(forge_peer)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "corpus.txt").write_text("some text " * 100)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "peer.cli.main", "--help"], check=True, capture_output=True, timeout=30)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(4)) < 0.3


def test_help_imports_nothing_slow() -> None:
    code = "import sys, peer.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    slow = {"torch", "hivemind", "fastapi", "pydantic", "rich", "cryptography", "asyncio"}
    assert not slow & set(modules.stdout.split())


def test_without_a_daemon_one_line_says_so(cli: Cli, tmp_path: Path) -> None:
    status, out, err = cli("runs")
    assert (status, out) == (1, "")
    assert err.startswith(f"forge-peer: FP-510: the daemon is not running in {tmp_path} (start it: forge-peer start")
    assert err.count("\n") == 1


def test_errors_with_json_are_json_too(cli: Cli) -> None:
    status, out, err = cli("runs", "--json")
    assert status == 1
    assert json.loads(out)["error"]["code"] == "FP-510"
    assert err.count("\n") == 1


def test_a_wrong_option_is_usage_with_status_2(cli: Cli) -> None:
    status, _, err = cli("watch", "--colour")
    assert status == 2
    assert err.startswith("forge-peer: FP-500: No such option '--colour'")
    assert err.count("\n") == 1


def test_runs_are_listed(cli: Cli, tmp_path: Path) -> None:
    with running_gateway(tmp_path):
        _, out, _ = cli("runs")
        assert out.splitlines()[1].split()[:3] == [RUN_A[:12], "tiny", "closed"]
        assert [job["run"] for job in json.loads(cli("runs", "--json")[1])] == [RUN_A, RUN_B]


def test_peers_balance_and_status_are_shown(cli: Cli, tmp_path: Path) -> None:
    with running_gateway(tmp_path):
        assert ME[:12] in cli("peers")[1]
        assert "1.500000" in cli("credits", "balance")[1]
        assert json.loads(cli("credits", "balance", "--json")[1])["balance"] == 1_500_000
        assert "12D3" in cli("status")[1]
        assert "closed" in cli("status", "tiny")[1]


def test_watch_takes_the_run_that_goes_on_and_ends_with_it(cli: Cli, tmp_path: Path) -> None:
    with running_gateway(tmp_path):
        status, out, _ = cli("watch", "tiny")
        assert status == 0
        assert "round    1  loss  3.2500  validation  3.5000" in out
        assert out.splitlines()[-1] == "closed after round 1: finished"
        lines = cli("watch", "tiny", "--json")[1].splitlines()
        assert [json.loads(line) for line in lines] == EVENTS


def test_the_live_screen_draws_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    with screen(RunView(), live=True) as shown:
        for event in EVENTS:
            shown.show(event)
        shown.say("and a word")
    out = capsys.readouterr().out
    assert "3.2500" in out
    assert "finished" in out
    assert "and a word" in out


def test_submit_checks_the_spec_before_it_asks_the_daemon(cli: Cli, spec: Path) -> None:
    spec.write_text(SPEC.replace("rounds: 2", "round: 2"))
    status, _, err = cli("submit", spec)
    assert status == 1
    assert f"{spec}:4" in err
    assert "rounds" in err
    assert "FP-101" in err


def test_submit_sends_absolute_paths_and_the_overrides(cli: Cli, spec: Path, tmp_path: Path) -> None:
    with running_gateway(tmp_path) as node:
        status, out, _ = cli("submit", spec, "--budget", "2.5", "--min-peers", "2")
        assert status == 0
        assert f"run {RUN_A} submitted" in out
        (_, sent), = node.asked  # fmt: skip
        assert sent["data"]["path"] == str(tmp_path / "corpus.txt")
        assert sent["members"]["min"] == 2
        assert float(sent["credits"]["budget"]) == 2.5
        assert json.loads(cli("submit", spec, "--json")[1]) == {"run": RUN_A, "name": "tiny"}


def test_submit_names_who_else_may_lead(cli: Cli, spec: Path, tmp_path: Path) -> None:
    with running_gateway(tmp_path) as node:
        for given, wanted in ((f"{'a' * 64}, {'b' * 64}", ["a" * 64, "b" * 64]), ("", [])):
            assert cli("submit", spec, "--leaders", given)[0] == 0
            assert node.asked[-1][2] == wanted
        status, _, err = cli("submit", spec, "--leaders", "bob")
        assert status == 2
        assert "'bob' is no account" in err


def test_submit_and_follow_shows_the_run(cli: Cli, spec: Path, tmp_path: Path) -> None:
    with running_gateway(tmp_path):
        assert "closed after round 1" in cli("submit", spec, "--follow")[1]


def test_a_refused_submission_fails(cli: Cli, spec: Path, tmp_path: Path) -> None:
    spec.write_text(SPEC.replace("name: tiny", "name: broken"))
    with running_gateway(tmp_path):
        status, _, err = cli("submit", spec)
    assert (status, err) == (1, "forge-peer: FP-402: the run cannot start (mend it)\n")


def test_export_generate_and_cancel_reach_the_run(cli: Cli, tmp_path: Path) -> None:
    with running_gateway(tmp_path) as node:
        assert "model.safetensors" in cli("export", "tiny", "--to", tmp_path / "model")[1]
        assert node.asked[-1] == ("export", RUN_A, str(tmp_path / "model"), None)
        cli("export", "tiny", "--to", tmp_path / "model", "--round", "7")
        assert node.asked[-1] == ("export", RUN_A, str(tmp_path / "model"), 7)
        assert cli("generate", "tiny", "--prompt", "Once")[1] == "Once and so on\n"
        assert cli("cancel")[2] == "forge-peer: FP-405: only its leader may cancel a run (ask the leader)\n"


def test_pause_and_resume_say_until_when(cli: Cli, tmp_path: Path) -> None:
    with running_gateway(tmp_path) as node:
        assert cli("pause")[1] == "paused until it is resumed\n"
        assert json.loads(cli("pause", "1h30m", "--json")[1])["paused"]["until"] == 6400.0
        assert cli("pause", "1d")[1].startswith("paused until 1970-01-0")
        assert cli("resume")[1] == "was not paused\n"
        assert node.asked == [("pause", None), ("pause", 5400.0), ("pause", 86_400.0), ("resume",)]
        node.asked.clear()
        assert cli("resume")[1] == "training again\n"


@pytest.mark.parametrize("text", ["2", "soon", "0m", "9999d"])
def test_a_wrong_duration_is_one_line_with_examples(cli: Cli, tmp_path: Path, text: str) -> None:
    with running_gateway(tmp_path) as node:
        status, out, err = cli("pause", text)
        assert (status, out, node.asked) == (1, "", [])
        assert err.startswith(f"forge-peer: FP-501: duration '{text}'")
        assert err.endswith("(examples: 30m, 2h, 1h30m, 1d)\n")
        assert err.count("\n") == 1


def test_start_without_a_network_says_how_to_get_one(cli: Cli) -> None:
    status, _, err = cli("start")
    assert status == 1
    assert "FP-505" in err
    assert "forge-peer network create" in err


def test_a_network_is_made_once_and_shown(cli: Cli, tmp_path: Path) -> None:
    status, out, _ = cli("network", "create", "--name", "valley", "--supply", "5", "--json")
    assert status == 0
    made = json.loads(out)
    shown = json.loads(cli("network", "show", "--json")[1])
    assert (shown["id"], shown["name"]) == (made["network"], "valley")
    assert shown["supply"] == [[made["account"], 5_000_000]]
    assert [name for name, _ in shown["witnesses"]] == ["witness-1"]
    before = (tmp_path / "network.json").read_bytes()
    status, _, err = cli("network", "create")
    assert status == 1
    assert "there is a network already" in err
    assert (tmp_path / "network.json").read_bytes() == before
    assert json.loads(cli("id", "--json")[1])["account"] == made["account"]


def test_a_network_file_of_another_network_is_refused(cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert cli("network", "create", "--name", "one")[0] == 0
    assert cli("network", "create", "--name", "two", "--home", other)[0] == 0
    status, _, err = cli("start", "--network", other / "network.json")
    assert status == 1
    assert "FP-505" in err
    assert "belongs to one" in err


def test_logs_are_one_line_each_on_standard_error(tmp_path: Path) -> None:
    code = (
        "import structlog; from peer.cli.start import configure_logging; configure_logging('info')\n"
        "log = structlog.get_logger('x'); log.debug('unseen'); log.info('round_settled', round=3, seconds=1.5)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "round_settled" in line
    assert "round=3 seconds=1.5" in line


def test_start_refuses_a_damaged_pause_rather_than_train(cli: Cli, tmp_path: Path) -> None:
    assert cli("network", "create")[0] == 0
    (tmp_path / "paused.json").write_text("2h")
    command = [sys.executable, "-m", "peer.cli.main", "start", "--home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"forge-peer: FP-501: {tmp_path / 'paused.json'}: not a pause")
    assert "delete the file to train" in line


def test_start_refuses_an_unknown_setting_in_peer_toml(cli: Cli, tmp_path: Path) -> None:
    assert cli("network", "create")[0] == 0
    (tmp_path / "peer.toml").write_text("thread = 2\n")
    status, _, err = cli("start")
    assert status == 1
    assert "FP-501" in err
    assert "did you mean 'threads'?" in err
