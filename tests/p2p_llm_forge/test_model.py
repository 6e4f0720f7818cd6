"""Models and canonical state: families, tied weights, strict loading, memory figures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from p2p_llm_forge import memory, model
from p2p_llm_forge.blobs import blob_id
from p2p_llm_forge.errors import DoesNotFit, ModelError, StateError
from p2p_llm_forge.inner import InnerTrainer
from p2p_llm_forge.schedule import learning_rate
from p2p_llm_forge.settings import ModelSpec, OuterSpec, TrainingSpec
from p2p_llm_forge.state import Layout, State


def config(family: str = "gpt2", **changes: Any) -> Any:
    """A tiny configuration."""
    spec = ModelSpec(**{"family": family, "layers": 2, "hidden_size": 16, "heads": 2, **changes})
    return model.config_from_spec(spec, vocab_size=50, sequence_length=12, end_id=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "opt", "gpt_neox", "mistral"])
def test_families_build_from_the_same_sizes_and_their_blob_builds_the_same(family: str) -> None:
    built_from = config(family)
    assert model.vocabulary(built_from) == 50
    assert model.context_length(built_from) == 12
    first = model.build(built_from, 1)
    again = model.build(model.config_from_blob(model.blob_from_config(built_from)), 1)
    left, right = (State.of_model(built, Layout.of(built, OuterSpec())) for built in (first, again))
    assert left.id() == right.id()
    tokens = torch.zeros(1, 12, dtype=torch.int64)
    assert first.eval()(input_ids=tokens).logits.shape == (1, 12, 50)


def test_the_estimate_counts_parameters_exactly_without_building() -> None:
    need = memory.estimate(config("llama"), sequences=4, sequence_length=12, moments=1)
    assert need.parameters == sum(parameter.numel() for parameter in model.build(config("llama"), 0).parameters())
    memory.check_fits(need, need.total_bytes)
    with pytest.raises(DoesNotFit, match=r"parameters need about .* GiB .* are free; choose a smaller"):
        memory.check_fits(need, need.total_bytes - 1)
    with pytest.raises(DoesNotFit, match="on the GPU"):
        memory.check_fits(need, need.total_bytes, gpu_bytes=1)
    memory.check_fits(need, need.state_bytes, gpu_bytes=need.total_bytes)


def test_a_seventy_billion_parameter_model_is_refused_at_once() -> None:
    huge = config("llama", layers=80, hidden_size=8192, heads=64, key_value_heads=8, feed_forward_size=28672)
    need = memory.estimate(huge, sequences=1, sequence_length=12, moments=0)
    assert need.parameters > 60e9
    with pytest.raises(DoesNotFit):
        memory.check_fits(need, memory.available_bytes())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"family": "bert-large"}, "is no causal language model"),
        ({"options": {"_attn_implementation": "x"}}, "is not allowed"),
        ({"options": {"quantization_config": {}}}, "is not allowed"),
        ({"options": {"n_layer": 10**6}}, "beyond anything"),
        ({"key_value_heads": 1}, "gpt2 has no such setting"),
        ({"options": {"activation_function": "nonsense"}}, "cannot be built"),
        ({"options": {"n_inner": "two"}}, "gpt2 refuses these settings"),
    ],
)
def test_unusable_models_are_refused_in_one_line(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        model.build(config(**change), 0)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    built: Any = model.build(config(), 0)
    built.config.save_pretrained(tmp_path)
    torch.save(built.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        model.from_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        ("sgd", set()),
        ("nesterov", {"outer.momentum"}),
        ("adamw", {"outer.first_moment", "outer.second_moment", "outer.steps"}),
    ],
)
def test_the_state_file_is_safetensors_with_tied_weights_once(tmp_path: Path, kind: Any, held: set[str]) -> None:
    built = model.build(config(), 0)
    layout = Layout.of(built, OuterSpec(kind=kind))
    state = State.of_model(built, layout)
    state.write(tmp_path / "s")
    tensors = load_file(tmp_path / "s")
    parameters = dict(built.named_parameters())
    assert set(tensors) == set(parameters) | held
    assert "lm_head.weight" not in tensors
    assert all(torch.equal(tensors[name], value) for name, value in parameters.items())
    assert state.id() == state.id(threads=3) == blob_id((tmp_path / "s").read_bytes())
    assert State.load(tmp_path / "s", layout).id() == state.id()
    with pytest.raises(StateError, match="bytes, expected"):
        State.load(tmp_path / "s", Layout.of(built, OuterSpec(kind="sgd" if held else "nesterov")))


@pytest.mark.parametrize("count", [-1.0, 0.5, float("inf")])
def test_a_state_that_counts_wrongly_is_refused(tmp_path: Path, count: float) -> None:
    built = torch.nn.ParameterDict({"a": torch.zeros(4)})
    layout = Layout.of(built, OuterSpec(kind="adamw"))
    state = State.of_model(built, layout)
    state.outer["steps"].fill_(count)
    state.write(tmp_path / "s")
    with pytest.raises(StateError, match=r"outer.steps is .*, expected a whole number|not finite"):
        State.load(tmp_path / "s", layout)


def test_a_state_of_another_model_of_the_same_size_is_refused(tmp_path: Path) -> None:
    one, two = (torch.nn.ParameterDict({name: torch.zeros(4)}) for name in ("a", "b"))
    State.of_model(one, Layout.of(one, OuterSpec())).write(tmp_path / "s")
    with pytest.raises(StateError, match="header is not the canonical one"):
        State.load(tmp_path / "s", Layout.of(two, OuterSpec()))


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    spec = TrainingSpec(rounds=10, warmup_rounds=2, learning_rate=0.1, min_learning_rate_ratio=0.2)
    rates = [learning_rate(spec, progress) for progress in (0.0, 1.0, 2.0, 6.0, 10.0, 99.0)]
    assert rates == pytest.approx([0.002, 0.05, 0.1, 0.06, 0.02, 0.02])


@pytest.mark.parametrize("micro", ["auto", 1, 3])
def test_one_round_equals_a_plain_loop(micro: Any) -> None:
    spec = TrainingSpec(inner_steps=3, batch_size=4, micro_batch_size=micro, warmup_rounds=0, rounds=10)
    tokens = torch.randint(0, 50, (12, 13), generator=torch.Generator().manual_seed(1))
    ours, plain = model.build(config(), 5), model.build(config(), 5)
    layout = Layout.of(ours, OuterSpec())
    trainer = InnerTrainer(ours, layout, spec, torch.device("cpu"))
    start = State.of_model(plain, layout).weights_P
    result = trainer.train(
        lambda first, count: tokens[first : first + count], slots=12, round_number=1, seed=0, deadline_s=float("inf"),
        stopped=lambda: False, report=lambda *_: None,
    )  # fmt: skip
    decayed = [parameter for parameter in plain.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in plain.parameters() if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step / 3)
        batch = tokens[4 * step : 4 * step + 4]
        logits = plain(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert [sum(result.losses[4 * i : 4 * i + 4]) / 4 for i in range(3)] == pytest.approx(losses, abs=1e-5)
    torch.testing.assert_close(trainer.local_P, State.of_model(plain, layout).weights_P, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(trainer.change(start), start - trainer.local_P)
