"""Exported models: what `ledger.exported` needs of them, for families with tied, fused and renamed weights.

IO: writes model folders below a test's own.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ledger.errors import ExportInvalid
from ledger.exported.weights import CHUNK_BYTES, blob_id, check_weights
from p2p_llm_forge.blobs import decode_json, encode_json
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.engine import Engine
from p2p_llm_forge.prepare import Prepared, prepare
from p2p_llm_forge.produce import CONFIG, WRITTEN_BY_TRANSFORMERS, export

from .conftest import corpus_text
from .engines import member

LARGE = {"vocab_size": 9000}
"""Enough for weights of more than one chunk."""
MIXTURE = {"options": {"num_local_experts": 2}}


def exported(folder: Path, model: dict[str, Any], training: dict[str, Any]) -> tuple[Prepared, Engine, Path]:
    """The initial state of a small run, as a model folder."""
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(300))
    fields = {
        "name": "exported", "model": {"layers": 1, "hidden_size": 32, "heads": 2, **model},
        "data": {"path": str(corpus), "sequence_length": 16, "tokenizer": {"kind": "bytes"}}, "training": training,
    }  # fmt: skip
    run = prepare(RunSpec.from_worker(fields), folder / "blobs", 1 << 40, lambda *_: None)
    engine = member(run, folder / "work", shards=False)
    for values in engine.state.outer.values():
        values.fill_(3.0)
    engine.state_id = engine.state.id()
    engine.inner.take(engine.state.weights_P)
    export(engine.inner.model, engine.state, engine.model_blob, engine.tokenizer, folder / "model")
    return run, engine, folder / "model"


@pytest.mark.parametrize(("model", "training"), [
    ({"family": "gpt2", **LARGE}, {}),
    ({"family": "llama", **LARGE}, {"codec": {"kind": "f32"}, "outer": {"kind": "nesterov"}}),
    ({"family": "llama", "options": {"tie_word_embeddings": True}}, {"mode": "synchronous"}),
    ({"family": "gpt_neox"}, {}),
    ({"family": "mixtral", **MIXTURE}, {}),
])  # fmt: skip
def test_the_state_s_id_follows_from_the_exported_weights(
    tmp_path: Path, model: dict[str, Any], training: dict[str, Any]
) -> None:
    run, engine, folder = exported(tmp_path, model, training)
    weights = folder / "model.safetensors"
    assert check_weights(folder, [weights], engine.state_id) == engine.layout.parameters == run.parameters
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ExportInvalid, match=f"wanted {engine.state_id}, that of the log"):
        check_weights(folder, [weights], engine.state_id)


def test_what_lies_besides_the_weights_is_short(tmp_path: Path) -> None:
    training = {"codec": {"kind": "f32"}, "outer": {"kind": "nesterov"}}
    _, engine, folder = exported(tmp_path, {"family": "llama", **LARGE}, training)
    size = (folder / "provenance" / "state").stat().st_size
    assert engine.layout.total_bytes > 4 * CHUNK_BYTES
    assert size <= len(engine.layout.header()) + CHUNK_BYTES + 32 * math.ceil(engine.layout.total_bytes / CHUNK_BYTES)


def test_config_and_tokenizer_are_the_blobs_of_the_run_and_transformers_loads_the_same_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run, engine, folder = exported(tmp_path, {"family": "mixtral", **MIXTURE}, {})
    config = json.loads((folder / CONFIG).read_bytes())
    blob = {name: value for name, value in config.items() if name not in WRITTEN_BY_TRANSFORMERS}
    assert blob_id(encode_json({"format": "p2p-llm-forge/model/v1", "config": blob})) == run.ids["model"]
    texts = {name: (folder / name).read_text() for name in decode_json(engine.tokenizer.blob(), "tokenizer")}
    assert blob_id(encode_json(texts)) == run.ids["tokenizer"]
    loaded = dict(AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).named_parameters())
    for name, parameter in engine.inner.model.named_parameters():
        assert torch.equal(loaded[name], parameter), name
