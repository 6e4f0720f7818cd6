"""Whole states and stage states: ids, cutting, assembling, initial weights, what is made of the whole."""

from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge import blobs, model, outer, produce
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data import tokenize
from p2p_llm_forge.errors import DoesNotFit, SplitError, StateError
from p2p_llm_forge.prepare import Prepared, prepare
from p2p_llm_forge.settings import OuterSpec, TrainingSpec
from p2p_llm_forge.stages import anatomy, cut, initial, parity, split, start, tied, whole
from p2p_llm_forge.stages.cut import Cut
from p2p_llm_forge.state import Layout, State

from .conftest import corpus_text
from .test_stages_split import config

pytestmark = pytest.mark.usefixtures("one_thread")

ADAMW = OuterSpec(kind="adamw")
TIED = {"tie_word_embeddings": True}


def random_state(built_from: Any, seed: int = 0) -> State:
    """Weights and moments that all differ."""
    state = State.of_model(model.build(built_from, seed), Layout.of(model.build(built_from, seed), ADAMW))
    drawn = torch.Generator().manual_seed(seed)
    for values in (state.weights_P, state.outer["first_moment"], state.outer["second_moment"]):
        values.copy_(torch.randn(values.shape, generator=drawn))
    state.outer["steps"].fill_(3.0)
    return state


def parts_of(built_from: Any, stages: int = 3) -> list[State]:
    """A random state, cut."""
    return whole.cut_state(random_state(built_from), split.layouts(built_from, cut.even(5, stages), ADAMW))


def test_the_id_of_a_run_state_is_the_merkle_root_over_the_stage_ids_and_their_bytes() -> None:
    names = [f"{letter * 64}-{count}" for letter, count in (("a", 10), ("b", 200), ("c", 3))]
    leaves = [blobs.leaf_hash(name.encode()) for name in names]
    assert whole.run_state_id(names) == f"{blobs.merkle_root(leaves).hex()}-213"
    assert whole.run_state_id(["0" * 64 + "-1", "f" * 64 + "-4096"]) == (
        "d7bb0189b539da49e32723b6bee7292c011f979e5f2cc79d550ecaae7a907123-4097"
    )


@pytest.mark.parametrize("bad", ["", "a" * 64, "A" * 64 + "-1", "a" * 64 + "-0", "a" * 64 + "-1\n", "a" * 63 + "-1"])
def test_what_is_no_state_id_has_no_place_in_a_run_state(bad: str) -> None:
    with pytest.raises(StateError, match=r"stage 1: .* is no state id"):
        whole.run_state_id(["a" * 64 + "-1", bad])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("stages", [1, 2, 5])
def test_a_state_that_was_cut_is_assembled_to_the_same_bytes(family: str, tie: bool, stages: int) -> None:
    built_from = config(family, options={"tie_word_embeddings": tie})
    state = random_state(built_from)
    parts = whole.cut_state(state, split.layouts(built_from, cut.even(5, stages), ADAMW))
    assert len(parts) == stages
    assert all(float(part.outer["steps"]) == 3.0 for part in parts)
    assert whole.assemble(parts).id() == state.id()


@pytest.mark.parametrize("held", ["weights", "first_moment", "second_moment"])
def test_copies_of_a_tied_tensor_that_differ_are_refused_by_name(held: str) -> None:
    parts = parts_of(config("llama", options=TIED))
    tie = tied.ties([part.layout for part in parts])[0]
    values = parts[2].weights_P if held == "weights" else parts[2].outer[held]
    values[tie.last.start] += 1.0
    with pytest.raises(StateError, match=r"stage 2: its copy of model.embed_tokens.weight is not that of stage 0"):
        whole.assemble(parts)


def test_stages_of_different_rounds_or_models_are_refused() -> None:
    parts = parts_of(config())
    parts[1].outer["steps"].fill_(4.0)
    with pytest.raises(StateError, match=r"stage 1: outer.steps is 4.0, in stage 0 3.0"):
        whole.assemble(parts)
    wider = parts_of(config(hidden_size=32))
    with pytest.raises(StateError, match=r"stage 2: transformer.wte.weight has shape \[50, 32\], elsewhere \[50, 16\]"):
        whole.assemble([*parts[:2], wider[2]])
    plain = State.blank(split.layouts(config(), cut.even(5, 3), OuterSpec())[1])
    with pytest.raises(StateError, match="stage 1: it has another outer optimizer"):
        whole.assemble([parts[0], plain, parts[2]])


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "opt", "mamba"])
def test_initial_weights_are_those_of_the_seed_whatever_the_cut(family: str) -> None:
    built_from = config(family, options=TIED) if family != "mamba" else _mamba()
    ids = set()
    for counts in ((5,), (2, 3), (1, 1, 3)):
        layers = Cut.of_counts(counts)
        known = anatomy.of(built_from, layers.stages())
        parts = list(initial.states(built_from, layers, ADAMW, 11, known))
        ids.add(whole.assemble(parts).id())
    assert len(ids) == 1
    other = next(initial.states(built_from, cut.even(5, 2), ADAMW, 12, anatomy.of(built_from, 2)))
    assert other.id() != parts[0].id()


def _mamba() -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model("mamba", num_hidden_layers=5, hidden_size=16, state_size=4, vocab_size=50)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_initial_weights_are_spread_as_the_family_has_them(family: str) -> None:
    built_from = config(family, hidden_size=64)
    layers = cut.even(5, 2)
    ours = whole.assemble(list(initial.states(built_from, layers, ADAMW, 1, anatomy.of(built_from, 2))))
    usual = dict(model.build(built_from, 1).named_parameters())
    for name, span in tied.spans(ours.layout).items():
        values, wanted = ours.weights_P[span], usual[name].detach().flatten()
        assert abs(float(values.mean() - wanted.mean())) < 0.01, name
        assert float(values.std()) == pytest.approx(float(wanted.std()), rel=0.15, abs=1e-6), name


def test_summed_gradients_of_a_tied_tensor_are_the_same_bits_in_both_stages_and_those_of_the_whole() -> None:
    built_from = config("gpt2", options=TIED)
    layouts = split.layouts(built_from, cut.even(5, 3), ADAMW)
    ties = tied.ties(layouts)
    drawn = torch.Generator().manual_seed(0)
    first = [torch.randn(layouts[0].parameters, generator=drawn) for _ in range(3)]
    last = [torch.randn(layouts[2].parameters, generator=drawn) for _ in range(2)]
    at_first = tied.sum_gradients(0, first, last, ties, layouts[0].parameters)
    at_last = tied.sum_gradients(2, last, first, ties, layouts[2].parameters)
    (tie,) = ties
    assert tie.name == "transformer.wte.weight"
    assert torch.equal(at_first[tie.first], at_last[tie.last])
    expected = torch.zeros_like(at_first[tie.first])
    for part in [update[tie.first] for update in first] + [update[tie.last] for update in last]:
        expected += part
    assert torch.equal(at_first[tie.first], expected)
    rest = torch.ones(layouts[0].parameters, dtype=torch.bool)
    rest[tie.first] = False
    assert torch.equal(at_first[rest], sum_of(first)[rest])
    assert tied.ties(layouts[:1]) == ()


def sum_of(updates: list[torch.Tensor]) -> torch.Tensor:
    """In order, from zero."""
    total = torch.zeros_like(updates[0])
    for update in updates:
        total.add_(update)
    return total


def test_the_whole_model_is_made_of_stage_states_and_exported(tmp_path: Path) -> None:
    built_from = config("llama", options=TIED)
    state = random_state(built_from)
    plain = model.build(built_from, 9)
    named = dict(plain.named_parameters())
    with torch.no_grad():
        for name, span in tied.spans(state.layout).items():
            named[name].copy_(state.weights_P[span].view_as(named[name]))
    parts = whole.cut_state(state, split.layouts(built_from, cut.even(5, 3), ADAMW))
    found: Any = whole.model_of(built_from, whole.assemble(parts))
    tokens = parity.sample(built_from)
    assert torch.equal(found.eval()(input_ids=tokens).logits, plain.eval()(input_ids=tokens).logits)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    tokenizer = tokenize.make(RunSpec.from_worker(fields(tmp_path)).data.tokenizer, iter(()))
    blob = model.blob_from_config(built_from)
    files = produce.export(found, whole.assemble(parts), blob, tokenizer, tmp_path / "model")
    assert "model.safetensors" in files
    loaded: Any = model.from_folder(str(tmp_path / "model"))
    assert torch.equal(loaded.eval()(input_ids=tokens).logits, plain(input_ids=tokens).logits)


def test_the_state_of_another_model_makes_no_whole_model() -> None:
    with pytest.raises(StateError, match="its tensors are not those of this model"):
        whole.model_of(config("gpt2", layers=4), random_state(config("gpt2")))


def fields(folder: Path, **more: Any) -> dict[str, Any]:
    """A pipeline run of three stages."""
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(400))
    return {
        "name": "pipeline",
        "seed": 3,
        "model": {"family": "llama", "layers": 5, "hidden_size": 16, "heads": 2, "options": TIED},
        "data": {"path": str(corpus), "sequence_length": 16, "tokenizer": {"kind": "bytes"}},
        "training": {"mode": "synchronous", "inner_steps": 2, "batch_size": 2},
        "pipeline": {"stages": 3, "microbatch_size": 2},
        **more,
    }


def prepared(folder: Path, available_bytes: int = 1 << 40, **more: Any) -> Prepared:
    """With its blobs written."""
    spec = RunSpec.from_worker(fields(folder, **more))
    return prepare(spec, folder / "blobs", available_bytes, lambda *_: None)


def test_preparing_a_pipeline_run_writes_a_state_for_each_stage_and_names_them_together(tmp_path: Path) -> None:
    run = prepared(tmp_path)
    reply = run.reply()
    assert run.spec.pipeline is not None
    counts = run.spec.pipeline.layers
    assert counts is not None
    assert sum(counts) == 5
    assert RunSpec.from_canonical(reply["config"]).pipeline == run.spec.pipeline
    built_from = model.config_from_blob(run.paths["model"].read_bytes())
    layers = start.cut_of(run.spec)
    layouts = split.layouts(built_from, layers, run.spec.training.outer)
    parts = [State.load(run.paths[f"state.{index}"], layout) for index, layout in enumerate(layouts)]
    names = [part.id() for part in parts]
    assert [reply["ids"][f"state.{index}"] for index in range(3)] == names == reply["stages"]["states"]
    assert reply["state"] == reply["ids"]["state"] == whole.run_state_id(names)
    assert set(reply["blobs"]) == {"model", "tokenizer", "manifest", "state.0", "state.1", "state.2", "shards"}
    assert sum(reply["stages"]["shares"]) == 1_000_000
    assert reply["stages"]["microbatch"] == 2
    assert reply["parameters"] == whole.assemble(parts).layout.parameters
    assert prepared(tmp_path).ids == run.ids


def test_a_run_without_stages_is_prepared_as_ever(tmp_path: Path) -> None:
    run = prepared(tmp_path, pipeline=None)
    assert set(run.paths) == set(run.ids) == {"model", "tokenizer", "manifest", "state"}
    assert "stages" not in run.reply()
    assert "pipeline" not in run.reply()["config"]


def test_a_pipeline_run_starts_from_the_weights_of_a_folder(tmp_path: Path) -> None:
    built: Any = model.build(config("gpt2"), 4)
    built.resize_token_embeddings(300)
    built.config.max_position_embeddings = 12
    built.save_pretrained(tmp_path / "model")
    data = {"path": str(tmp_path / "corpus.txt"), "sequence_length": 12, "tokenizer": {"kind": "bytes"}}
    run = prepared(tmp_path, model={"path": str(tmp_path / "model")}, data=data)
    layouts = split.layouts(built.config, start.cut_of(run.spec), run.spec.training.outer)
    parts = [State.load(run.paths[f"state.{index}"], layout) for index, layout in enumerate(layouts)]
    wanted = State.of_model(built, Layout.of(built, run.spec.training.outer))
    assert whole.assemble(parts).id() == wanted.id()


def test_what_cannot_be_cut_so_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    given = tmp_path / "given"
    built: Any = model.build(config("gpt2", layers=2), 4)
    built.resize_token_embeddings(300)
    built.save_pretrained(given)
    data = {"path": str(tmp_path / "corpus.txt"), "sequence_length": 12, "tokenizer": {"kind": "bytes"}}
    with pytest.raises(SplitError, match=r"pipeline.stages: 3, the model has 2 layers; set 2 stages or fewer"):
        prepared(tmp_path, model={"path": str(given)}, data=data)
    with pytest.raises(SplitError, match=r"pipeline.layers: 3 in all, the model has 2"):
        other = {"stages": 2, "layers": [1, 2], "microbatch_size": 2}
        prepared(tmp_path, model={"path": str(given)}, data=data, pipeline=other)
    with pytest.raises(DoesNotFit, match=r"pipeline: stage 0 of 3: .* the smallest memory that would do is"):
        prepared(tmp_path, available_bytes=1000)
    with pytest.raises(SplitError, match=r"pipeline.layers: missing"):
        start.cut_of(RunSpec.from_worker(fields(tmp_path)))
    assert not (tmp_path / "blobs").exists()


def test_training_with_stage_states_of_adamw_equals_training_with_the_whole_one() -> None:
    built_from = config("llama", options=TIED)
    spec = TrainingSpec(mode="synchronous", grad_clip=0.0)
    state = random_state(built_from)
    state.outer["second_moment"].abs_()
    layouts = split.layouts(built_from, cut.even(5, 3), ADAMW)
    parts = whole.cut_state(state, layouts)
    gradient_P = torch.randn(state.layout.parameters, generator=torch.Generator().manual_seed(5))
    there = tied.spans(state.layout)
    for part in parts:
        own_P = torch.zeros(part.layout.parameters)
        for name, here in tied.spans(part.layout).items():
            own_P[here] = gradient_P[there[name]]
        outer.step(part, own_P, spec, 1)
    outer.step(state, gradient_P.clone(), spec, 1)
    assert whole.assemble(parts).id() == state.id()
