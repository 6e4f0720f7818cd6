"""The worker as the daemon sees it: real subprocesses, real training, real kills."""

import json
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_llm_forge.blobs import blob_id
from p2p_llm_forge.memory import estimate
from p2p_llm_forge.model import config_from_blob

from .client import ROOT, Client, refused, share
from .conftest import Run, spec_fields


def test_prepare_makes_blobs_that_have_the_ids_it_says(run: Run, worker: Client) -> None:
    prepared = run.prepared
    for name in ("model", "tokenizer", "manifest", "state"):
        assert blob_id(Path(prepared["blobs"][name]).read_bytes()) == prepared["ids"][name]
    for path, name in zip(prepared["blobs"]["shards"], prepared["ids"]["shards"], strict=True):
        assert blob_id(Path(path).read_bytes()) == name
    assert prepared["state"] == prepared["ids"]["state"]
    assert prepared["tokens_per_slot"] == 32
    assert prepared["flops_per_token"] == 6 * prepared["parameters"]
    assert any(event.get("phase") == "tokens" and event["done"] == event["total"] for event in worker.events)


def test_two_workers_train_apply_and_hold_the_same_state(run: Run, tmp_path: Path) -> None:
    with Client(tmp_path / "a") as a, Client(tmp_path / "b", threads=2) as b:
        assert a.ready["version"] == 1
        opened = [(client, client.send("open", **run.open)) for client in (a, b)]
        assert [client.wait(asked)["state"] for client, asked in opened] == [run.prepared["state"]] * 2
        first = a("evaluate", sequences=16)["loss"]
        losses = []
        for number in range(1, 5):
            mine = a("train", round=number, start=number * 32, count=16, seconds=60)
            other = b("train", round=number, start=number * 32 + 16, count=9, seconds=60)
            assert (mine["slots"], mine["steps"], mine["tokens"]) == (16, 4, 512)
            assert (other["slots"], other["steps"], other["tokens"]) == (9, 3, 288)
            assert b("check", update=mine["update"])["norm_units"] > 0
            state = a("apply", round=number, updates=[share(mine, True), share(other, False)])
            assert state["state"] == blob_id(Path(state["path"]).read_bytes())
            assert b("apply", round=number, updates=[share(mine, False), share(other, True)])["state"] == state["state"]
            losses.append(mine["loss"])
        assert losses[-1] < losses[0]
        assert a("evaluate", sequences=16)["loss"] < first
        progress = [event for event in a.events if event["event"] == "progress"]
        assert progress[-1]["step"] == progress[-1]["steps"] == 4
        assert len(list((tmp_path / "a" / "states").iterdir())) == 3
        assert a("close") == {}
        assert a.process.wait(20) == 0


def test_a_killed_worker_catches_up_by_replay_or_snapshot(run: Run, tmp_path: Path) -> None:
    with Client(tmp_path / "a") as a:
        b = Client(tmp_path / "b")
        for client in (a, b):
            client("open", **run.open)
        settled = []
        for number in (1, 2):
            settled.append([share(a("train", round=number, start=number * 16, count=8, seconds=60), False)])
            state = a("apply", round=number, updates=settled[-1])
        b.send("train", round=1, start=0, count=16, seconds=60)
        b.kill()
        with Client(tmp_path / "b") as again:
            again("open", **run.open)
            for number, updates in enumerate(settled, start=1):
                replayed = again("apply", round=number, updates=updates)
            assert replayed["state"] == state["state"]
            assert again("load", state=run.prepared["blobs"]["state"])["state"] == run.prepared["state"]
            assert again("load", state=state["path"])["state"] == state["state"]


def test_an_exported_model_loads_in_transformers_and_the_worker_generates(run: Run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with Client(tmp_path / "a") as a:
        a("open", **run.open)
        loss = a("evaluate", sequences=4)["loss"]
        done = a("export", to=str(tmp_path / "model"))
        refused(a, "export", "FP-109", "exists already", to=str(tmp_path / "model"))
        text = a("generate", prompt="The miller", tokens=40, temperature=0.7, top_k=5, seed=1)["text"]
        assert text == a("generate", prompt="The miller", tokens=40, temperature=0.7, top_k=5, seed=1)["text"]
        assert "".join(event["text"] for event in a.events if event["event"] == "text") == text * 2
        assert a("generate", prompt="", tokens=3, temperature=0.0, top_k=0, seed=0)["text"] is not None
        # A model folder is a starting point for the next run, through the real loading path.
        fields = spec_fields(run.corpus)
        fields["model"] = {"path": str(tmp_path / "model")}
        fields["data"]["tokenizer"] = {"kind": "path", "path": str(tmp_path / "model")}
        next_run = a("prepare", spec=fields, out=str(tmp_path / "next"))
        assert next_run["state"] == run.prepared["state"]
        a("open", config=next_run["config"], **next_run["blobs"])
        assert a("evaluate", sequences=4)["loss"] == loss
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(done["files"])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == run.prepared["parameters"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    assert tokenizer.decode(tokenizer("The miller ground.")["input_ids"]) == "The miller ground."


def test_stop_ends_a_training_after_its_step_and_check_answers_meanwhile(run: Run, tmp_path: Path) -> None:
    prepared = {**run.prepared["config"], "training": {**run.prepared["config"]["training"], "inner_steps": 100000}}
    with Client(tmp_path / "a") as a:
        a("open", **{**run.open, "config": prepared})
        update = a("train", round=1, start=0, count=4, seconds=60)["update"]
        training = a.send("train", round=2, start=4, count=400_000, seconds=600)
        while a.read().get("event") != "progress":
            pass
        for command, fields in (("check", {"update": update}), ("stop", {})):
            asked = a.send(command, **fields)
            while (value := a.read()).get("event"):
                pass
            assert value["id"] == asked
            assert "ok" in value
        reply = a.wait(training)
        assert 0 < reply["steps"] < 100_000
        assert reply["slots"] == 4 * reply["steps"]
        again = a.send("train", round=3, start=4, count=8, seconds=600)
        assert a.wait(again)["steps"] == 2, "a stop is over when its training is"
        nothing = a("train", round=4, start=4, count=8, seconds=1e-9)
        assert (nothing["steps"], nothing["slots"], nothing["update"]) == (0, 0, "")


def test_a_missed_round_is_sent_again_later(run: Run, tmp_path: Path) -> None:
    config = json.loads(json.dumps(run.prepared["config"]))
    config["training"]["codec"] = {**config["training"]["codec"], "kind": "f32", "decay": "1.0"}
    config["training"].update(warmup_rounds=0, min_learning_rate_ratio="1.0")
    with Client(tmp_path / "a") as a:
        a("open", **{**run.open, "config": config})
        missed = a("train", round=1, start=0, count=4, seconds=60)
        a("apply", round=1, updates=[])
        norm = a("check", update=missed["update"])["norm_units"]
        both = a("train", round=2, start=0, count=4, seconds=60)
        assert a("check", update=both["update"])["norm_units"] > 1.5 * norm
        a("apply", round=2, updates=[share(both, True)])
        alone = a("train", round=3, start=0, count=4, seconds=60)
        assert a("check", update=alone["update"])["norm_units"] < 1.5 * norm


def test_a_full_disk_refuses_by_name_and_the_same_apply_succeeds_later(run: Run, tmp_path: Path) -> None:
    with Client(tmp_path / "a") as a, Client(tmp_path / "b") as b:
        for client in (a, b):
            client("open", **run.open)
        update = a("train", round=1, start=0, count=4, seconds=60)
        pid = a.process.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        refused(a, "apply", "FP-110", "free space", round=1, updates=[share(update, True)])
        assert not list((tmp_path / "a" / "states").iterdir())
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        state = a("apply", round=1, updates=[share(update, True)])["state"]
        assert b("apply", round=1, updates=[share(update, False)])["state"] == state


def test_a_llama_run_with_bytes_nesterov_and_dense_updates_works_too(run: Run, tmp_path: Path) -> None:
    fields = spec_fields(run.corpus, codec={"kind": "f32"}, outer={"kind": "nesterov", "learning_rate": 0.7})
    fields["training"].update(micro_batch_size=3, precision="bf16")
    fields["data"]["tokenizer"] = {"kind": "bytes"}
    fields["model"] = {"family": "llama", "layers": 2, "hidden_size": 32, "heads": 4, "key_value_heads": 2}
    with Client(tmp_path / "a") as a:
        prepared = a("prepare", spec=fields, out=str(tmp_path / "out"))
        assert prepared["vocab_size"] == 257
        a("open", config=prepared["config"], **prepared["blobs"])
        before = a("evaluate", sequences=8)["loss"]
        for number in (1, 2, 3):
            update = a("train", round=number, start=number * 16, count=16, seconds=60)
            a("apply", round=number, updates=[share(update, True)])
        assert a("evaluate", sequences=8)["loss"] < before
        assert a("generate", prompt="The", tokens=64, temperature=1.0, top_k=0, seed=1)["text"]


def test_workers_share_one_batch_in_mode_synchronous_and_snapshots_carry_its_moments(run: Run, tmp_path: Path) -> None:
    fields = spec_fields(run.corpus, mode="synchronous", codec={"kind": "f16"}, learning_rate=0.01, warmup_rounds=0)
    with Client(tmp_path / "a") as a, Client(tmp_path / "b", threads=2) as b:
        prepared = a("prepare", spec=fields, out=str(tmp_path / "out"))
        opened = {"config": prepared["config"], **prepared["blobs"]}
        assert a("open", **opened)["state"] == b("open", **opened)["state"] == prepared["state"]
        before, losses = a("evaluate", sequences=16)["loss"], []
        for number in range(1, 4):
            mine = a("train", round=number, start=number * 32, count=16, seconds=60)
            other = b("train", round=number, start=number * 32 + 16, count=5, seconds=60)
            assert (other["slots"], other["steps"], other["tokens"]) == (5, 2, 160)
            assert b("check", update=mine["update"])["norm_units"] > 0
            state = a("apply", round=number, updates=[share(mine, True), share(other, False)])
            settled = [share(mine, False), share(other, True)]
            same = b("load", state=state["path"]) if number == 2 else b("apply", round=number, updates=settled)
            assert same["state"] == state["state"]
            losses.append(mine["loss"])
        assert losses[-1] < losses[0]
        assert a("evaluate", sequences=16)["loss"] < before


def test_a_worker_has_no_network_where_the_system_allows_that(worker: Client) -> None:
    own = Path("/proc/self/ns/net").readlink()
    theirs = Path(f"/proc/{worker.process.pid}/ns/net").readlink()
    assert (own != theirs) == bool(worker.ready["network_isolated"])


def test_a_worker_ends_with_its_input(tmp_path: Path) -> None:
    with Client(tmp_path / "a") as a:
        assert a.process.stdin is not None
        a.process.stdin.close()
        assert a.process.wait(20) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux only")
def test_a_worker_dies_with_its_parent_even_when_its_input_stays_open(tmp_path: Path) -> None:
    command = f"{sys.executable} -m p2p_llm_forge.worker --folder {tmp_path} --device cpu & echo $!; wait"
    reader, writer = os.pipe()
    out_reader, out_writer = os.pipe()
    # A shell gives background jobs /dev/null as input unless told otherwise.
    parent = subprocess.Popen(
        ["bash", "-c", command.replace(" & ", " <&0 & ")], cwd=ROOT, stdin=reader, stdout=out_writer
    )
    try:
        with os.fdopen(out_reader) as lines:
            pid = int(lines.readline())
            ready = json.loads(lines.readline())
            assert ready["event"] == "ready"
            handle = os.pidfd_open(pid)
            os.kill(parent.pid, signal.SIGKILL)
            assert select.select([handle], [], [], 20)[0], "the worker outlived its parent"
            os.close(handle)
    finally:
        parent.kill()
        parent.wait()
        for descriptor in (reader, writer, out_writer):
            os.close(descriptor)


def test_a_worker_whose_parent_died_before_it_was_ready_ends_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "p2p_llm_forge.worker", "--folder", str(tmp_path), "--device", "cpu"]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    command += ["--parent", str(gone.pid)]
    late = subprocess.run(command, cwd=ROOT, stdin=subprocess.PIPE, capture_output=True, timeout=60, check=False)
    assert (late.returncode, late.stdout) == (0, b"")


def test_a_worker_takes_as_many_sequences_at_once_as_fit_and_says_so(run: Run, tmp_path: Path) -> None:
    batch = run.prepared["config"]["training"]["batch_size"]
    assert run.prepared["config"]["training"]["micro_batch_size"] == "auto"
    with Client(tmp_path / "a") as a:
        chosen = a("open", **run.open)["micro_batch"]
        assert chosen["sequences"] == batch
        assert chosen["allowed_bytes"] > chosen["measured_bytes"] >= 0
        assert a("train", round=1, start=0, count=8, seconds=60)["micro_batch"] == batch
        refused(a, "open", "FP-105", "are free", **run.open, memory_bytes=1000)
        built = config_from_blob(Path(run.prepared["blobs"]["model"]).read_bytes())
        need = estimate(built, sequences=1, sequence_length=32, moments=0)
        tight = a("open", **run.open, memory_bytes=need.total_bytes)
        assert tight["micro_batch"]["sequences"] == 1
        assert a("train", round=1, start=0, count=8, seconds=60)["micro_batch"] == 1
        assert "micro_batch" not in a("open", **{**run.open, "shards": []}), "it will not train"
