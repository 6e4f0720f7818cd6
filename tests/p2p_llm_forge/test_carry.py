"""What a member carries from round to round: through deaths, by the log's word alone, never counted twice."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2p_llm_forge.blobs import blob_id
from p2p_llm_forge.carry import fate
from p2p_llm_forge.kept import Label
from p2p_llm_forge.protocol import MOST_ROUNDS_AWAY, Settled

from .client import ROOT, Client, share
from .conftest import Run


def opened(run: Run, **training: Any) -> dict[str, Any]:
    """The fields of `open`, with other settings."""
    config = json.loads(json.dumps(run.prepared["config"]))
    config["training"].update(training)
    return {**run.open, "config": config}


def lossless(**codec: Any) -> dict[str, Any]:
    """A codec section whose residual does not fade."""
    return {"kind": "topk", "k": 64, "chunk": 4096, "group": 64, "decay": "1.0", **codec}


def settle(reply: dict[str, Any], number: int) -> dict[str, Any]:
    """A train reply as the log tells of it."""
    return {"round": number, "update": blob_id(Path(reply["update"]).read_bytes())}


def test_a_death_at_any_line_loses_nothing_that_was_told_and_counts_nothing_twice(run: Run, tmp_path: Path) -> None:
    request = {"id": 1, "do": "open", **opened(run, codec=lossless(), inner_steps=2)}
    (tmp_path / "open.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "tests.p2p_llm_forge.lives", str(tmp_path / "open.json"), str(tmp_path)]
    done = subprocess.run([*command, *map(str, range(8))], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    stories = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(stories) == 8
    for story in stories:
        assert story["amiss"] < 1e-5, story
        assert story.get("same", True), f"{story}: other updates than without the deaths"
    assert sum(story["kills"] for story in stories) >= 8


def trained(client: Client, number: int, log: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Train a round on slots of its own."""
    told = {} if log is None else {"settled": log}
    return client("train", round=number, start=number * 8, count=8, seconds=600, **told)


def until_kept(client: Client, number: int) -> None:
    """The worker closes, and with it all that it had begun to write."""
    client("close")
    assert client.process.wait(60) == 0
    assert (client.folder / "kept" / f"optimizer-{number}.safetensors").exists()


def test_a_worker_after_another_goes_on_bit_by_bit_as_if_nothing_had_been(run: Run, tmp_path: Path) -> None:
    fields, log = opened(run), []
    with Client(tmp_path / "calm") as calm, Client(tmp_path / "a") as first:
        for client in (calm, first):
            client("open", **fields)
        for number in (1, 2, 3):
            replies = [trained(client, number, log) for client in (calm, first)]
            for client, reply in zip((calm, first), replies, strict=True):
                assert client("apply", round=number, updates=[share(reply, True)])["state"]
            if number != 2:
                log.append(settle(replies[0], number))
        state = next(iter(sorted((tmp_path / "calm" / "states").iterdir(), key=lambda path: -path.stat().st_mtime_ns)))
        until_kept(first, 3)
        with Client(tmp_path / "a") as second:
            second("open", **{**fields, "state": str(state)})
            one, other = trained(calm, 4, log), trained(second, 4, log)
            assert settle(one, 4) == settle(other, 4)
            assert other["restored"] == {"residual": 3, "optimizer": 3}
            assert "restored" not in one
            again = trained(second, 4, log)
            assert settle(again, 4) == settle(one, 4), "a round that is trained again replaces what it left"
            second.send("train", round=5, start=40, count=8, seconds=600, settled=log)
            second.kill()
        with Client(tmp_path / "a") as third:
            third("open", **{**fields, "state": str(state)})
            log.append(settle(one, 4))
            assert settle(trained(third, 5, log), 5) == settle(trained(calm, 5, log), 5)


def test_a_member_that_jumps_by_a_snapshot_keeps_what_the_log_says_was_not_settled(run: Run, tmp_path: Path) -> None:
    fields = opened(run, codec=lossless(kind="f32"), warmup_rounds=0, min_learning_rate_ratio="1.0")
    with Client(tmp_path / "a") as a:
        a("open", **fields)
        norms = {}
        for settled in (True, False, None):
            first = trained(a, 1, [])
            a("load", state=run.prepared["blobs"]["state"])
            log = None if settled is None else [settle(first, 1)] if settled else []
            second = trained(a, 9, log)
            norms[settled] = a("check", update=second["update"])["norm_units"]
            assert ("notes" in second) == (settled is None)
        assert norms[False] > 1.5 * norms[True]
        assert "nobody says" in second["notes"][0]
        assert norms[None] < 1.5 * norms[True]


KNOWN = Label(round=5, state="s", update="u5")


@pytest.mark.parametrize(
    ("number", "settled", "applied", "gone", "fault"),
    [
        (6, [("u5", 5)], None, True, ""),
        (6, [], None, False, ""),
        (6, [], True, False, ""),  # the log rules over what was applied ahead of it
        (6, [("u3", 3), ("u4", 4)], None, False, ""),
        (9, [("u4", 4), ("u5", 5)], None, True, ""),
        (9, [("u7", 7)], None, False, "settled in round 7"),
        (9, [("u5", 5), ("u7", 7)], None, False, "settled in round 7"),
        (6, [("other", 5)], None, False, "settled in round 5"),
        (6, None, True, True, ""),
        (6, None, False, False, ""),
        (6, None, None, False, "nobody says"),
        (5 + MOST_ROUNDS_AWAY, [], None, False, ""),
        (6 + MOST_ROUNDS_AWAY, [], None, False, "rounds ago"),
    ],
)
def test_the_log_says_what_has_left_the_residual(
    number: int, settled: list[tuple[str, int]] | None, applied: bool | None, gone: bool, fault: str
) -> None:
    told = None if settled is None else [Settled(round=at, update=update) for update, at in settled]
    found = fate(KNOWN, number, told, applied=applied)
    assert found[0] == gone
    assert fault in found[1]
    assert bool(fault) == bool(found[1])


def test_a_full_disk_costs_what_is_kept_and_not_the_round(run: Run, tmp_path: Path) -> None:
    with Client(tmp_path / "a") as a:
        a("open", **opened(run))
        reply = trained(a, 1, [])
        a("open", **opened(run))  # When this is answered, nothing is being written any more.
        limit = Path(reply["update"]).stat().st_size + 100
        resource.prlimit(a.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        second = trained(a, 2, [settle(reply, 1)])
        assert ["free space" in note for note in second["notes"]] == [True]
        resource.prlimit(a.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert "notes" not in trained(a, 3, [settle(reply, 1), settle(second, 2)])
        kept = {path.name for path in (tmp_path / "a" / "kept").iterdir()}
        assert {"residual-1.safetensors", "residual-3.safetensors"} <= kept
        assert "residual-2.safetensors" not in kept
        log = [settle(reply, 1), settle(second, 2)]
        a.kill()
    with Client(tmp_path / "a") as b:
        b("open", **opened(run))
        behind = trained(b, 3, log)
        assert behind["restored"]["residual"] == 0
        assert "another update of ours was settled in round 2" in behind["notes"][0]
