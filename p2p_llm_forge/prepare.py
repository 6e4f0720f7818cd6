"""The submitter's part: turns a run spec and a corpus into the blobs that every member starts from.

IO: reads the corpus and local model folders; writes the blobs into one folder, each whole or absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_llm_forge import memory, model
from p2p_llm_forge.blobs import blob_id, write_atomic
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data import corpus, shards, tokenize
from p2p_llm_forge.errors import ModelError, SpecError, TokenizerError
from p2p_llm_forge.stages import start
from p2p_llm_forge.stages.experts import start as experts_start
from p2p_llm_forge.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was made."""

    spec: RunSpec
    parameters: int
    manifest: shards.Manifest
    paths: dict[str, Path]
    """model, tokenizer, manifest, state; a pipeline run has state.0, state.1, … in its place."""
    ids: dict[str, str]
    """Their blob ids; `state` is always there."""
    shard_paths: list[Path]
    stages: dict[str, Any] | None = None
    """What the ledger is told of a pipeline run (`stages.start.Written`)."""
    needs_bytes: list[int] | None = None
    """What serving each stage of it takes."""

    def reply(self) -> dict[str, Any]:
        """The worker's answer to `prepare`."""
        reply: dict[str, Any] = {
            "parameters": self.parameters,
            "slots_per_epoch": self.manifest.train_slots,
            "held_out_slots": self.manifest.held_out_slots,
            "tokens_per_slot": self.manifest.sequence_length,
            "vocab_size": self.manifest.vocab_size,
            "flops_per_token": 6 * self.parameters,
            "state": self.ids["state"],
            "blobs": {
                **{name: str(path) for name, path in self.paths.items()},
                "shards": [str(path) for path in self.shard_paths],
            },
            "ids": {**self.ids, "shards": list(self.manifest.shards)},
            "config": self.spec.canonical(),
        }
        if self.stages is None:
            return reply
        return {**reply, "stages": self.stages, "needs_bytes": self.needs_bytes}


def prepare(
    spec: RunSpec, out: Path, available_bytes: int, progress: corpus.Progress, peers_bytes: Sequence[int] = ()
) -> Prepared:
    """Make all blobs of a run in `out`.

    Args:
        available_bytes: memory of a peer that trains the whole model.
        peers_bytes: of each peer that there is, for a model that is cut; as much as here if none is known.

    Raises:
        CorpusError, TokenizerError, ModelError, SplitError, DoesNotFit, SpecError, DiskError: before the slow part
            where possible.
    """
    if spec.data.path is None or not Path(spec.data.path).is_absolute():
        raise SpecError(f"data.path: {spec.data.path!r}; give the absolute path of the text file")
    text = Path(spec.data.path)
    corpus.size(text)
    tokenizer = tokenize.make(spec.data.tokenizer, corpus.pieces(text, progress, "tokenizer"))
    config = _model_config(spec, tokenizer)
    plan: start.Plan | experts_start.Plan | None = None
    if spec.experts is not None:
        plan = experts_start.plan(spec, config, peers_bytes or [available_bytes])
    elif spec.pipeline is None:
        _check_fits(spec, config, available_bytes)
    else:
        plan = start.plan(spec, config, peers_bytes or [available_bytes])
        spec = plan.pinned(spec)
    manifest, shard_paths = shards.pack(
        tokenizer.encode_pieces(corpus.pieces(text, progress, "tokens")),
        folder=out / "shards",
        sequence_length=spec.data.sequence_length,
        held_out=spec.data.held_out,
        vocab_size=tokenizer.vocab_size,
        corpus=str(text),
    )
    progress("state", 0, 1)
    blobs: dict[str, tuple[str, bytes | memoryview]] = {
        "model": ("model.json", model.blob_from_config(config)),
        "tokenizer": ("tokenizer.json", tokenizer.blob()),
        "manifest": ("manifest.json", manifest.encode()),
    }
    if plan is None:
        state = _initial_state(spec, config)
        blobs["state"] = ("state.safetensors", state.data)
    for name, data in blobs.values():
        write_atomic(out / name, [data])
    written = None if plan is None else _write(spec, config, plan, out)
    progress("state", 1, 1)
    return Prepared(
        spec=spec,
        parameters=state.layout.parameters if plan is None else plan.costs.parameters,
        manifest=manifest,
        paths={kind: out / name for kind, (name, _) in blobs.items()} | (written.paths if written else {}),
        ids={kind: blob_id(data) for kind, (_, data) in blobs.items()} | (written.ids if written else {}),
        shard_paths=shard_paths,
        stages=written.stages if written else None,
        needs_bytes=plan.needs_bytes(spec, config) if plan is not None else None,
    )


def _write(spec: RunSpec, config: Any, plan: start.Plan | experts_start.Plan, out: Path) -> start.Written:
    """The initial states of a model that several peers hold."""
    if isinstance(plan, start.Plan):
        return start.write(spec, config, plan, out)
    return experts_start.write(spec, config, plan, out)


def _check_fits(spec: RunSpec, config: Any, available_bytes: int) -> None:
    """Refuse a model that this machine cannot train. Raises DoesNotFit."""
    training = spec.training
    need = memory.estimate(
        config,
        sequences=1 if training.micro_batch_size == "auto" else training.micro_batch_size,
        sequence_length=spec.data.sequence_length,
        moments=len(training.outer.moments),
        own_steps=training.mode == "local",
        overlap=training.overlap,
    )
    memory.check_fits(need, available_bytes)


def _initial_state(spec: RunSpec, config: Any) -> State:
    """Of a run whose members hold the whole model."""
    built = model.from_folder(spec.model.path) if spec.model.path else model.build(config, spec.seed)
    return State.of_model(built, Layout.of(built, spec.training.outer))


def _model_config(spec: RunSpec, tokenizer: tokenize.TextCodec) -> Any:
    """The model's configuration, checked against tokenizer and sequence length."""
    if spec.model.path:
        config = model.read_config(spec.model.path)
        # What members would refuse in the blob is refused here first.
        config = model.config_from_blob(model.blob_from_config(config))
    else:
        config = model.config_from_spec(
            spec.model,
            vocab_size=tokenizer.vocab_size,
            sequence_length=spec.data.sequence_length,
            end_id=tokenizer.end_id,
        )
    rows = model.vocabulary(config)
    if tokenizer.vocab_size > rows:
        raise TokenizerError(
            f"tokenizer: {tokenizer.vocab_size} tokens, the model's vocabulary has {rows}; "
            "set data.tokenizer.vocab_size lower or model.vocab_size higher"
        )
    longest = model.context_length(config)
    if longest is not None and spec.data.sequence_length > longest:
        raise ModelError(
            f"data.sequence_length: {spec.data.sequence_length} tokens, the model sees {longest}; "
            "set sequence_length lower or model.context higher"
        )
    return config
