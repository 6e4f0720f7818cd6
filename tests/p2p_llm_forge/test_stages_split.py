"""Stages of a model: the same loss and gradients bit for bit, only their own weights in memory, refusals."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from p2p_llm_forge import model
from p2p_llm_forge.errors import SplitError
from p2p_llm_forge.settings import ModelSpec, OuterSpec
from p2p_llm_forge.stages import anatomy, cut, parity, split
from p2p_llm_forge.stages.cut import Cut
from p2p_llm_forge.stages.skeleton import skeleton
from p2p_llm_forge.stages.stubs import Blank, Enter, Leave, Past, Through
from p2p_llm_forge.state import Layout

pytestmark = pytest.mark.usefixtures("one_thread")


def config(family: str = "gpt2", **changes: Any) -> Any:
    """A tiny configuration."""
    spec = ModelSpec(**{"family": family, "layers": 5, "hidden_size": 16, "heads": 2, **changes})
    return model.config_from_spec(spec, vocab_size=50, sequence_length=parity.TOKENS, end_id=0)


def seeded(stage: int) -> None:
    """A seed of its own for each stage."""
    torch.manual_seed(1000 + stage)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_the_stages_compute_what_the_whole_model_does_bit_for_bit(family: str, tied: bool, stages: int) -> None:
    built_from = config(family, options={"tie_word_embeddings": tied})
    known = anatomy.of(built_from, stages)
    whole: Any = model.build(built_from, 1)
    assert (whole.get_output_embeddings().weight is whole.get_input_embeddings().weight) == tied
    parity.compare(whole, known, cut.even(5, stages), built_from)


def test_with_dropout_the_stages_draw_what_the_whole_model_draws_from_the_same_seeds() -> None:
    built_from = config("gpt2", dropout=0.3)
    known = anatomy.of(built_from, 3)
    whole, layers = model.build(built_from, 1), cut.even(5, 3)
    parity.compare(whole, known, layers, built_from, seeded)
    with pytest.raises(SplitError, match=r"gives something else in its stage"):
        parity.compare(whole, known, layers, built_from)  # one seed after the other


def test_a_stage_recomputes_the_same_from_the_same_seed() -> None:
    stage = split.build(config("gpt2", dropout=0.3), Cut.of_counts((2, 3)), 1).train()
    x = torch.randn(2, 7, 16)
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
        outputs = []
        for seed in (4, 4, 5):
            torch.manual_seed(seed)
            outputs.append(stage(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_stages_hold_every_parameter_once_under_its_name_in_the_whole_model_but_tied_ones_twice(family: str) -> None:
    built_from = config(family, options={"tie_word_embeddings": True})
    whole = {name: tuple(value.shape) for name, value in model.build(built_from, 0).named_parameters()}
    outer = OuterSpec(kind="adamw")
    layouts = split.layouts(built_from, cut.even(5, 3), outer)
    names = [name for layout in layouts for name in layout.names]
    twice = {name for name in names if names.count(name) > 1}
    assert len(twice) == 1
    assert twice == set(layouts[0].names) & set(layouts[2].names)
    assert set(names) == set(whole)
    assert all(
        whole[name] == shape for layout in layouts for name, shape in zip(layout.names, layout.shapes, strict=True)
    )
    stage = split.build(built_from, cut.even(5, 3), 2)
    assert split.layout_of(stage, outer) == layouts[2] == Layout.of(stage, outer)
    assert sum(parameter.numel() for parameter in stage.parameters()) == layouts[2].parameters


def test_what_other_stages_hold_is_replaced_and_the_list_of_layers_keeps_its_length() -> None:
    stage: Any = split.build(config("gpt2"), Cut.of_counts((1, 2, 2)), 1)
    inside = stage.model.transformer
    assert [type(layer).__name__ for layer in inside.h] == ["Enter", "GPT2Block", "GPT2Block", "Leave", "Through"]
    assert all(isinstance(inside.h[index], kind) for index, kind in ((0, Enter), (3, Leave), (4, Through)))
    assert all(isinstance(module, Blank) for module in (inside.wte, inside.wpe, inside.drop))
    assert isinstance(inside.ln_f, Past)
    assert isinstance(stage.model.lm_head, Past)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3_text", "mpt", "bloom"])
def test_buffers_of_a_stage_are_computed_and_never_garbage(family: str) -> None:
    built_from = config(family, layers=2)
    whole = dict(model.build(built_from, 0).named_buffers())
    found = dict(skeleton(built_from).named_buffers())
    assert whole.keys() == found.keys()
    assert all(not value.is_meta and torch.equal(value, whole[name]) for name, value in found.items())


def test_building_leaves_the_random_state_and_the_hooks_of_torch_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    split.build(config("llama"), Cut.of_counts((2, 3)), 1, anatomy_of("llama"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert not nn.Linear(2, 2).weight.is_meta


def anatomy_of(family: str) -> anatomy.Anatomy:
    """Learned, with the random state as before."""
    state = torch.random.get_rng_state()
    known = anatomy.of(config(family), 2)
    torch.random.set_rng_state(state)
    return known


BUILD_ONE = """
import torch
from p2p_llm_forge import model
from p2p_llm_forge.settings import ModelSpec
from p2p_llm_forge.stages import split
from p2p_llm_forge.stages.cut import Cut
def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
def built(layers, hidden, rows, counts, index):
    spec = ModelSpec(family="llama", layers=layers, hidden_size=hidden, heads=8, context=64)
    config = model.config_from_spec(spec, vocab_size=rows, sequence_length=64, end_id=0)
    return split.build(config, Cut.of_counts(counts), index)
built(2, 64, 100, (1, 1), 1)
before = peak()
stage = built(20, 1024, 100_000, (9, 1, 10), 1)
with torch.no_grad():
    for parameter in stage.parameters():
        parameter.fill_(1.0)
print(sum(parameter.numel() for parameter in stage.parameters()) * 4, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the peak")
def test_building_a_stage_takes_the_memory_of_its_own_weights() -> None:
    # The whole model has 20 such layers and 100,000 rows of embedding, more than a gigabyte.
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BUILD_ONE], cwd=root, capture_output=True, text=True, timeout=600, check=True
    )
    own, taken = map(int, done.stdout.split())
    assert 40e6 < own < 80e6
    assert taken < 1.5 * own + 30e6


def test_a_cut_of_another_model_is_refused() -> None:
    with pytest.raises(SplitError, match="cut: 4 layers, the model has 5; cut it anew"):
        split.build(config(), Cut.of_counts((2, 2)), 0)
    with pytest.raises(SplitError, match="the model has 5 layers; set 5 stages or fewer"):
        split.build(config(), Cut.of_counts([1] * 6), 0)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("xlm", r"transformer\.\w+ of XLMWithLMHeadModel runs between the layers"),
        ("hrm_text", r"does not run the layers of model\.L_module\.layers once each, in order"),
        ("big_bird", r"the stages of BigBirdForCausalLM do not run \(AttributeError: 'Leave' object has no"),
        ("blt", r"no small blt can be built to check the cut with \(it still has [\d,]+ parameters\)"),
    ],
)
def test_a_family_that_cannot_be_cut_is_refused_naming_the_module(family: str, reason: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(SplitError, match=reason) as caught:
        parity.check(AutoConfig.for_model(family), 2)
    assert caught.value.code == "FP-112"
    assert caught.value.message.endswith("train it without pipeline, or choose another model.family")


class Toy(nn.Module):
    """Three layers of one matrix each, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.head = nn.Linear(4, 4)


def test_parameters_that_layers_share_or_that_belong_nowhere_are_refused_by_name() -> None:
    toy = Toy()
    assert anatomy.layers_path(toy) == "layers"
    assert list(anatomy.units(toy, "layers")) == ["head"]
    anatomy._check_own(toy, "layers")
    toy.layers[2].weight = toy.layers[0].weight
    with pytest.raises(SplitError, match=r"layers\.2\.weight is shared with layers\.0, another stage may hold that"):
        anatomy._check_own(toy, "layers")
    toy = Toy()
    toy.layers[1].bias = toy.head.bias
    with pytest.raises(SplitError, match=r"layers\.1\.bias is shared with head, another stage may hold that"):
        anatomy._check_own(toy, "layers")
    toy = Toy()
    toy.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(SplitError, match=r"scale belongs to no layer and to no module beside them"):
        anatomy._check_own(toy, "layers")
    with pytest.raises(SplitError, match="Linear has no list of layers to cut"):
        anatomy.layers_path(nn.Linear(2, 2))


class Broken:
    """Something that makes the stages compute something else than the whole."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def weights(self) -> None:
        """One weight of one layer is another one in its stage."""
        real = parity._part

        def part(*args: Any) -> Any:
            stage = real(*args)
            if stage.index == 1:
                with torch.no_grad():
                    stage.get_parameter("model.transformer.h.3.mlp.c_fc.weight")[0, 0] += 1e-3
            return stage

        self._patch.setattr(parity, "_part", part)

    def gradient(self) -> None:
        """The gradient of one tensor is doubled on its way."""
        real = parity._part

        def part(*args: Any) -> Any:
            stage = real(*args)
            if stage.first:
                stage.get_parameter("model.transformer.h.0.ln_1.weight").register_hook(lambda value: value * 2)
            return stage

        self._patch.setattr(parity, "_part", part)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Breaks a stage."""
    return Broken(monkeypatch)


def test_another_output_is_refused_naming_the_module(broken: Broken) -> None:
    broken.weights()
    with pytest.raises(SplitError, match=r"transformer\.h\.3\.mlp\.c_fc of GPT2LMHeadModel gives something else"):
        parity.check(config(), 2)


def test_another_gradient_is_refused_naming_the_parameter(broken: Broken) -> None:
    broken.gradient()
    with pytest.raises(SplitError, match=r"the gradient of transformer\.h\.0\.ln_1\.weight of GPT2LMHeadModel"):
        parity.check(config(), 3)


def test_a_large_model_is_checked_by_a_small_one_of_its_kind() -> None:
    huge = config("llama", layers=80, hidden_size=8192, heads=64, key_value_heads=8, feed_forward_size=28672)
    known = parity.check(huge, 3)
    assert known.specimen.num_hidden_layers == 8
    assert known.specimen.hidden_size == 64
    assert known.specimen.num_key_value_heads == 2
    assert parity.check(config("llama", layers=30), 12).specimen.num_hidden_layers == 12
