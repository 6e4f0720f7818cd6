"""What the worker refuses, over the real pipe: by name, in one line, with nothing changed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from p2p_llm_forge.blobs import decode_json, encode_json

from .client import Client, refused, share
from .conftest import Run, spec_fields


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


def with_code(model_blob: bytes) -> bytes:
    """A model blob that names code to load."""
    value = decode_json(model_blob, "model blob")
    value["config"]["auto_map"] = {"AutoModelForCausalLM": "modeling.Evil"}
    return encode_json(value)


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
        "code": with_code(raw) if damage == "code" else b"",
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
