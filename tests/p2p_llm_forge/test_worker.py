"""The worker as the daemon sees it: real subprocesses, real training, real kills."""

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2p_llm_forge.blobs import blob_id

from .client import ROOT, Client, Refusal
from .conftest import Run, spec_fields


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
    config["training"]["codec"] = {"kind": "f32", "k": 64, "chunk": 4096, "decay": "1.0"}
    with Client(tmp_path / "a") as a:
        a("open", **{**run.open, "config": config})
        missed = a("train", round=1, start=0, count=4, seconds=60)
        a("apply", round=1, updates=[])
        norm = a("check", update=missed["update"])["norm_units"]
        both = a("train", round=1, start=0, count=4, seconds=60)
        assert a("check", update=both["update"])["norm_units"] > 1.5 * norm
        a("apply", round=2, updates=[share(both, True)])
        alone = a("train", round=1, start=0, count=4, seconds=60)
        assert a("check", update=alone["update"])["norm_units"] < 1.5 * norm


@pytest.mark.parametrize("change", ["truncate", "flip", "empty", "missing", "longer", "nan", "huge"])
def test_a_bad_update_is_refused_and_changes_nothing(run: Run, tmp_path: Path, worker: Client, change: str) -> None:
    state = worker("open", **run.open)["state"]
    good = worker("train", round=1, start=0, count=4, seconds=60)
    raw = Path(good["update"]).read_bytes()
    bad = tmp_path / "bad"
    scale = {"nan": b"\x00\x00\xc0\x7f", "huge": b"\xff\xff\x7f\x7f"}.get(change, b"")
    changed = {
        "truncate": raw[:-1], "flip": b"\x00" + raw[1:], "empty": b"", "longer": raw + b"\x00",
        "nan": raw[:36] + scale + raw[40:], "huge": raw[:36] + scale + raw[40:],
    }  # fmt: skip
    if change != "missing":
        bad.write_bytes(changed[change])
    reason = {
        "truncate": "truncated", "flip": "wrong header", "empty": "truncated", "longer": "oversize",
        "missing": "No such file", "nan": "non-finite", "huge": "over-norm",
    }[change]  # fmt: skip
    code = "FP-110" if change == "missing" else "FP-107"
    refused(worker, "check", code, reason, update=str(bad))
    contributions = [share(good, True), {"path": str(bad), "tokens": 5, "mine": 0}]
    refused(worker, "apply", code, reason, round=1, updates=contributions)
    assert worker("apply", round=1, updates=[])["state"] == state


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


def test_requests_out_of_order_or_malformed_are_refused_and_the_worker_lives(run: Run, tmp_path: Path) -> None:
    with Client(tmp_path / "a") as a:
        refused(a, "train", "FP-109", "send open first", round=1, start=0, count=1, seconds=1)
        refused(a, "check", "FP-109", "send open first", update="x")
        refused(a, "explode", "FP-109", "do is 'explode'; did you mean export?")
        refused(a, "train", "FP-109", "train: seconds", round=1, start=0, count=1, seconds="1")
        refused(a, "measure", "FP-109", "extra inputs", x=1)
        for line in (b"{\n", b"[]\n", b'{"id":7,"id":7,"do":"stop"}\n', b'{"id":1,"do":"stop","x":NaN}\n', b"\xff\n"):
            a.write(line)
            assert a.read()["error"]["code"] == "FP-109"
        a("open", **{**run.open, "shards": []})
        refused(a, "train", "FP-109", "without shards", round=1, start=0, count=1, seconds=1)
        measured = a("measure")
        assert measured["tflops"] > 0
        assert measured["device"] == "cpu"


@pytest.mark.parametrize(
    ("field", "damage", "code", "text"),
    [
        ("state", "flip", "FP-106", "header"),
        ("state", "truncate", "FP-106", "expected"),
        ("state", "nan", "FP-106", "not finite"),
        ("model", "truncate", "FP-108", "not canonical JSON"),
        ("model", "code", "FP-104", "is not allowed"),
        ("tokenizer", "truncate", "FP-108", "not canonical JSON"),
        ("manifest", "truncate", "FP-108", "not canonical JSON"),
        ("shards", "truncate", "FP-108", "expected"),
    ],
)
def test_a_damaged_blob_is_refused_by_name(
    run: Run, tmp_path: Path, worker: Client, field: str, damage: str, code: str, text: str
) -> None:
    fields = run.open
    source = Path(fields[field][0] if field == "shards" else fields[field])
    raw = source.read_bytes()
    damaged = {
        "flip": raw[:20] + bytes([raw[20] ^ 1]) + raw[21:],
        "truncate": raw[:-1],
        "nan": raw[:-4] + b"\x00\x00\xc0\x7f",
        "code": raw.replace(b'"config":{', b'"config":{"auto_map":{},', 1),
    }[damage]
    path = tmp_path / source.name
    path.write_bytes(damaged)
    refused(worker, "open", code, text, **{**fields, field: [str(path)] if field == "shards" else str(path)})


def test_bad_corpora_and_models_are_refused_before_any_work(run: Run, tmp_path: Path, worker: Client) -> None:
    def prepare(code: str, text: str, path: Path = run.corpus, memory: int = 1 << 34, **changes: Any) -> None:
        fields = spec_fields(path)
        for key, value in changes.items():
            fields[key] = {**fields[key], **value}
        out = tmp_path / "out"
        refused(worker, "prepare", code, text, spec=fields, out=str(out), memory_bytes=memory)
        assert not (out / "state.safetensors").exists()
        shutil.rmtree(out, ignore_errors=True)

    short = tmp_path / "short.txt"
    short.write_text("too short")
    (tmp_path / "binary").write_bytes(b"\x7fELF\x00\x01")
    prepare("FP-102", "No such file", tmp_path / "none.txt")
    prepare("FP-102", "shorter than one sequence of 32", short)
    prepare("FP-102", "binary", tmp_path / "binary")
    prepare("FP-103", "the model's vocabulary has 300", model={"vocab_size": 300})
    prepare("FP-104", "the model sees 16", model={"context": 16})
    prepare("FP-104", "did you mean gpt2?", model={"family": "gpt22"})
    prepare("FP-104", "has no such setting; did you mean attn_pdrop?", model={"options": '{"atn_pdrop":0.1}'})
    prepare("FP-104", "is not allowed", model={"options": '{"auto_map":{}}'})
    prepare("FP-105", "parameters need about", memory=1000)
    prepare("FP-105", "GiB", model={"layers": 1000, "hidden_size": 8192})
    prepare("FP-101", "unknown key", training={"stepz": 1})
    fields = spec_fields(run.corpus)
    fields["model"] = {"path": "nobody/has-this"}
    refused(worker, "prepare", "FP-104", "local cache", spec=fields, out=str(tmp_path / "out"))
    fields["model"] = {"path": str(tmp_path)}
    refused(worker, "prepare", "FP-104", "config.json", spec=fields, out=str(tmp_path / "out"))
    fields = spec_fields(run.corpus)
    fields["data"]["tokenizer"] = {"kind": "path", "path": str(tmp_path)}
    refused(worker, "prepare", "FP-103", "cannot be loaded", spec=fields, out=str(tmp_path / "out"))


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
