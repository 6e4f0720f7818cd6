"""With all experts alive, experts on other peers are the local model: loss and all gradients, to the bit."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge.errors import HolderError, ModelError, RequestError, SpecError, SplitError
from p2p_llm_forge.model import build
from p2p_llm_forge.stages.experts import parity
from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.fused import find, survey
from p2p_llm_forge.stages.experts.groups import Groups, Serving
from p2p_llm_forge.stages.experts.pieces import cut
from p2p_llm_forge.stages.experts.remote import Exchange, Passage, RemoteExperts, install
from p2p_llm_forge.stages.experts.trunk import build as build_trunk
from p2p_llm_forge.stages.experts.trunk import objective

from .experts_case import FAMILIES, SPEC, Swarm, Whole, config_of, done, tokens_of

pytestmark = pytest.mark.usefixtures("one_thread", "no_power_cuts")

BALANCE = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
MORE: dict[str, list[dict[str, Any]]] = {
    "mixtral": [{}, BALANCE],
    "qwen2_moe": [{}, BALANCE, {"decoder_sparse_step": 2, "num_hidden_layers": 4, **BALANCE}],
    "qwen3_moe": [{}, {**BALANCE, "mlp_only_layers": [0], "num_hidden_layers": 3}],
    "olmoe": [{}, {**BALANCE, "tie_word_embeddings": True}],
}


CASES = [(family, more, "fp32") for family in FAMILIES for more in MORE[family]]


@pytest.mark.parametrize(("family", "more", "precision"), [*CASES, *((family, BALANCE, "bf16") for family in FAMILIES)])
def test_loss_and_all_gradients_equal_the_local_model_bit_for_bit_on_1_2_and_4_holders(
    tmp_path: Path, family: str, more: dict[str, Any], precision: str
) -> None:
    config, tokens = config_of(family, **more), tokens_of(4, seed=2)
    spec = SPEC.model_copy(update={"precision": precision})
    whole = Whole(config, spec)
    gradient_P, total = whole.gradient(tokens)
    wanted = whole.state.copy()
    wanted.weights_P.copy_(gradient_P)
    for groups in (1, 2, 4):
        swarm = Swarm(config, whole.state, tmp_path / str(groups), groups=groups, spec=spec)
        swarm.begin(1)
        balance = swarm.run(0, tokens).balance * config.router_aux_loss_coef
        assert swarm.loss() + balance == pytest.approx(total / tokens[:, 1:].numel(), rel=1e-6)
        assert (balance > 0.0) == (more != {})
        for own, part in zip(swarm.gradients(), cut(wanted, swarm.pieces), strict=True):
            assert torch.equal(own, part.weights_P)


def test_shared_experts_belong_to_the_trunk(tmp_path: Path) -> None:
    whole = Whole(config_of("qwen2_moe"))
    cut_into = Swarm(config_of("qwen2_moe"), whole.state, tmp_path, groups=2).pieces
    assert any(".shared_expert." in name for name in cut_into[0].layout.names)
    assert all(
        ".experts." in name and name.endswith((":4]", ":8]")) for part in cut_into[1:] for name in part.layout.names
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_objective_is_the_loss_that_the_model_itself_computes(family: str) -> None:
    whole, tokens = Whole(config_of(family, **BALANCE)), tokens_of(4, seed=3)
    own = whole.model(
        input_ids=tokens[:, :-1], labels=tokens[:, :-1], shift_labels=tokens[:, 1:].contiguous(), use_cache=False
    )
    assert float(own.aux_loss.detach()) > 0.0
    found = objective(whole.model, tokens)
    assert float(found.total.detach()) / tokens[:, 1:].numel() == pytest.approx(float(own.loss.detach()), rel=1e-6)
    assert found.balance == float(own.aux_loss.detach())


def test_who_holds_what_changes_no_bit(tmp_path: Path) -> None:
    config = config_of("olmoe", chosen=4)
    state, tokens = Whole(config).state, tokens_of(4, seed=4)
    found = []
    for groups in (1, 2, 8):
        swarm = Swarm(config, state, tmp_path / str(groups), groups=groups)
        swarm.begin(1)
        driven = swarm.run(0, tokens)
        found.append((driven.losses, swarm.gradients()[0]))
    for losses, trunk_P in found[1:]:
        assert losses == found[0][0]
        assert torch.equal(trunk_P, found[0][1])


def test_every_holder_is_asked_once_per_layer_and_direction(tmp_path: Path) -> None:
    config = config_of("mixtral", num_hidden_layers=3)
    swarm = Swarm(config, Whole(config).state, tmp_path, groups=4)
    swarm.begin(1)
    driven = swarm.run(0, tokens_of(8, seed=5))
    for direction in ("forward", "backward"):
        asked = [(call.holder, call.layer) for kind, call in swarm.calls if kind == direction]
        assert sorted(asked) == [(f"g{group}r0", layer) for group in range(4) for layer in range(3)]
    assert all(driven.layers(swarm.groups.span(group)) == frozenset(range(3)) for group in range(4))


def sums(swarm: Swarm, parts: Sequence[torch.Tensor], *, at_once: bool) -> list[Any]:
    """The losses and gradients of a round with these microbatches."""
    swarm.begin(1)
    if not at_once:
        for number, part in enumerate(parts):
            swarm.run(number, part)
    else:
        ask, answer = swarm.exchange.forward, swarm.exchange.backward
        all_there, taking_turns = threading.Barrier(len(parts), timeout=60), threading.Lock()

        def forward(passage: Passage, calls: Sequence[Call]) -> Sequence[torch.Tensor]:
            all_there.wait()  # nobody goes on before all microbatches are in this layer
            with taking_turns:
                return ask(passage, calls)

        def backward(passage: Passage, calls: Sequence[Call], gradients: Sequence[torch.Tensor]) -> Any:
            with taking_turns:
                return answer(passage, calls, gradients)

        swarm.exchange.forward, swarm.exchange.backward = forward, backward
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(swarm.run, range(len(parts)), parts))
    losses = [swarm.driven[number].losses for number in range(len(parts))]
    return [*losses, *map(torch.Tensor.tolist, swarm.gradients())]


def test_microbatches_that_are_under_way_at_once_come_to_the_same_sum(tmp_path: Path) -> None:
    config, parts = config_of("qwen2_moe"), tokens_of(8, seed=7).split(4)
    state = Whole(config).state
    found = [
        sums(Swarm(config, state, tmp_path / str(at_once), groups=2), parts, at_once=at_once)
        for at_once in (False, True)
    ]
    assert found[0] == found[1]


def test_an_evaluation_is_that_of_the_local_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    config, tokens = config_of("mixtral"), tokens_of(4, seed=14)
    whole = Whole(config)
    swarm = Swarm(config, whole.state, tmp_path, groups=2)
    swarm.begin(1)
    swarm.exchange.forward = lambda passage, calls: [
        done(swarm.shards[call.holder].forward(swarm.tag(call.holder, 0), call)) for call in calls
    ]
    with torch.no_grad():
        wanted = objective(whole.model.eval(), tokens).losses_B
    assert torch.equal(swarm.trunk.evaluate(tokens, swarm.serving()), wanted)
    assert all(not shard.manifest() for shard in swarm.shards.values())
    with pytest.raises(RequestError, match="write: no microbatch of this round was driven"):
        swarm.trunk.write()
    swarm.run(0, tokens)
    with pytest.raises(RequestError, match="trunk: microbatch 0 was driven already"):
        swarm.run(0, tokens)


def test_experts_without_tokens_are_not_asked_and_learn_nothing(tmp_path: Path) -> None:
    config = config_of("qwen3_moe", experts=16)
    whole = Whole(config)
    swarm = Swarm(config, whole.state, tmp_path, groups=16)
    silent = 0
    gradient_P, _ = whole.gradient(tokens := tokens_of(1, seed=6, length=3))
    swarm.begin(1)
    driven = swarm.run(0, tokens)
    wanted = whole.state.copy()
    wanted.weights_P.copy_(gradient_P)
    for group, (own, state) in enumerate(zip(swarm.gradients()[1:], cut(wanted, swarm.pieces)[1:], strict=True)):
        if driven.layers(swarm.groups.span(group)):
            assert torch.equal(own, state.weights_P)
        else:
            silent += 1
            assert not own.any()
            assert not state.weights_P.any()
    assert silent >= 4


def test_a_trunk_is_built_without_any_expert_and_knows_its_place() -> None:
    config = config_of("olmoe", tie_word_embeddings=True)
    trunk = build_trunk(config, Exchange(lambda passage, calls: [], lambda passage, calls, gradients: []))
    local = Whole(config)
    own = {name for name in local.layout.names if ".experts." not in name}
    assert {name for name, _ in trunk.named_parameters()} == own
    assert not any(values.is_meta for values in [*trunk.parameters(), *trunk.buffers()])
    for (name, wanted), (same, found) in zip(local.model.named_buffers(), trunk.named_buffers(), strict=True):
        assert name == same
        assert torch.equal(found, wanted)


def test_models_without_fused_experts_are_refused_by_name() -> None:
    from transformers import AutoConfig

    with pytest.raises(ModelError, match="gpt2 has no experts to place"):
        survey(AutoConfig.for_model("gpt2", n_layer=1, n_embd=8, n_head=1, vocab_size=5))
    gpt_oss = AutoConfig.for_model(
        "gpt_oss", num_hidden_layers=1, hidden_size=16, intermediate_size=8, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, num_local_experts=4, vocab_size=9, layer_types=["full_attention"],
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"model\.layers\.0\.mlp\.experts \(GptOssExperts\) is no fused expert module"):
        survey(gpt_oss)


class Answers:
    """Holders that answer as they are told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def model(self) -> RemoteExperts:
        """A layer that asks them."""
        built = build(config_of("mixtral"), 1)
        exchange = Exchange(self.forward, lambda passage, calls, gradients: [])
        install(built, exchange)
        exchange.begin(0, Serving.of(Groups.of(8, 2), ["a", "b"], layers=2))
        layer = built.get_submodule("model.layers.1.mlp.experts")
        assert isinstance(layer, RemoteExperts)
        return layer

    def forward(self, passage: Passage, calls: Sequence[Call]) -> list[torch.Tensor]:
        """One of them lies."""
        return [self.answer(call) if call.holder == "b" else call.tokens_SD for call in calls]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda call: call.tokens_SD[1:], r"float32 \[1, 32\], wanted float32 \[2, 32\]"),
        (lambda call: call.tokens_SD.double(), r"float64 \[2, 32\], wanted float32 \[2, 32\]"),
        (lambda call: call.tokens_SD * float("nan"), "not finite, wanted numbers"),
    ],
)
def test_a_holder_that_answers_garbage_is_named_with_its_layer(answer: Any, fault: str) -> None:
    layer = Answers(answer).model()
    index = torch.tensor([[0, 7], [4, 1]])
    with pytest.raises(HolderError, match=rf"model\.layers\.1\.mlp\.experts: b answered {fault}") as caught:
        layer(torch.ones(2, 32), index, torch.full((2, 2), 0.5))
    assert caught.value.holder == "b"


@pytest.mark.parametrize("expert", [8, -1])
def test_a_router_that_chooses_no_expert_of_the_layer_is_refused(expert: int) -> None:
    layer = Answers(lambda call: call.tokens_SD).model()
    with pytest.raises(ModelError, match=rf"the router chose expert {expert}, wanted 0…7"):
        layer(torch.ones(1, 32), torch.tensor([[0, expert]]), torch.full((1, 2), 0.5))


def test_the_layers_are_found_in_their_order_with_their_sizes() -> None:
    found = find(build(config_of("qwen2_moe", num_hidden_layers=12), 1))
    assert [fused.name for fused in found] == [f"model.layers.{layer}.mlp.experts" for layer in range(12)]
    assert {(fused.experts, fused.hidden, fused.inner) for fused in found} == {(8, 32, 24)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_at_a_runs_start_passes_for_large_models_of_the_families(family: str) -> None:
    from transformers import AutoConfig

    parity.check(AutoConfig.for_model(family, output_router_logits=True), groups=4)


def test_the_check_names_the_module_that_does_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = RemoteExperts.forward

    def other(self: RemoteExperts, *inputs: torch.Tensor) -> torch.Tensor:
        return forward(self, *inputs) * (1.001 if self.layer == 1 else 1.0)

    monkeypatch.setattr(RemoteExperts, "forward", other)
    with pytest.raises(SplitError, match=r"model\.layers\.1\.mlp\.experts of OlmoeForCausalLM gives something else"):
        parity.check(config_of("olmoe"), groups=2)
    with pytest.raises(SpecError, match=r"experts\.groups: 9, but a layer of this model has 8 experts"):
        parity.check(config_of("olmoe"), groups=9)
