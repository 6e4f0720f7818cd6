"""Run specs: what is refused, where the refusal points, and that the canonical form loses nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge.config import RunSpec, default_price
from p2p_llm_forge.errors import SpecError

ROOT = Path(__file__).parents[2]
GOOD = """\
name: x
model:
  family: gpt2
  layers: 2
  hidden_size: 32
  heads: 2
data:
  path: text.txt
"""


def refusal(folder: Path, text: str) -> str:
    """What loading this spec says."""
    path = folder / "x.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        RunSpec.load(path)
    assert caught.value.code == "FP-101"
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(path), "x.yaml")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("training:\n  inner_stepz: 3\n", "x.yaml:10: training.inner_stepz: unknown key; did you mean inner_steps?"),
        ("trainign: {}\n", "x.yaml:9: trainign: unknown key; did you mean training?"),
        (
            "training:\n  codec:\n    zzz: 3\n",
            "x.yaml:11: training.codec.zzz: unknown key; known: chunk, decay, group, k",
        ),
        ("training:\n  rounds: many\n", 'x.yaml:10: training.rounds: input should be a valid integer, found "many"'),
        ("training:\n  rounds: '3'\n", 'x.yaml:10: training.rounds: input should be a valid integer, found "3"'),
        ("training:\n  rounds: 0\n", "x.yaml:10: training.rounds: input should be greater than or equal to 1"),
        ("training:\n  learning_rate: .nan\n", "x.yaml:10: training.learning_rate: input should be a finite number"),
        ("training:\n  clip_updates: 1\n", "x.yaml:10: training.clip_updates: input should be a valid boolean"),
        ("training:\n  betas: [0.9, 1.5]\n", "x.yaml:9: training: betas [0.9, 1.5] must lie in [0, 1)"),
        ("training:\n  micro_batch_size: 9\n", "x.yaml:9: training: micro_batch_size 9 is larger than batch_size 8"),
        ("training:\n  codec: {k: 65, chunk: 64}\n", "x.yaml:10: training.codec: k 65 is larger than chunk 64"),
        (
            "training: {codec: {kind: int8, k: 32}}\n",
            "x.yaml:9: training.codec: k 32 means nothing to int8; leave it out or set kind: topk",
        ),
        (
            "training: {codec: {group: 32}}\n",
            "x.yaml:9: training.codec: group 32 means nothing to topk; leave it out or set kind: int8",
        ),
        ("training: {codec: {kind: int9}}\n", "x.yaml:9: training.codec.kind: input should be 'topk', 'f32'"),
        ("training: {outer: {momentum: 0.5}}\n", "x.yaml:9: training.outer: momentum 0.5 means nothing to sgd"),
        (
            "training: {mode: synchronous, outer: {kind: adamw, learning_rate: 0.5}}\n",
            "x.yaml:9: training.outer: learning_rate means nothing to adamw; leave it out and set training.learning",
        ),
        ("training: {outer: {kind: adamw}}\n", "x.yaml:9: training: outer.kind adamw takes gradients; set mode: syn"),
        (
            "training: {mode: synchronous, outer: {kind: sgd}}\n",
            "x.yaml:9: training: mode synchronous steps by adamw; leave sgd out or set mode: local",
        ),
        (
            "training: {mode: synchronous, codec: {kind: topk}}\n",
            "x.yaml:9: training: mode synchronous needs every gradient; set codec.kind: f32, f16, int8 or int4",
        ),
        (
            "training: {mode: synchronous, clip_updates: true}\n",
            "x.yaml:9: training: mode synchronous adds gradients up as they are; leave clip_updates out",
        ),
        ("training: {mode: sync}\n", "x.yaml:9: training.mode: input should be 'local' or 'synchronous'"),
        (
            "training: {target_loss: 2.0}\nevaluation: {every: 0}\n",
            "x.yaml:1: spec: training.target_loss needs held-out losses; set evaluation.every to 1 or more",
        ),
        (
            "evaluation: {patience: 3, every: 0}\n",
            "x.yaml:1: spec: evaluation.patience needs held-out losses; set evaluation.every to 1 or more",
        ),
        ("training: {max_tokens: 0}\n", "x.yaml:9: training.max_tokens: input should be greater than or equal to 1"),
        ("training: {target_loss: 0.0}\n", "x.yaml:9: training.target_loss: input should be greater than or equal"),
        ("members: {min: 3, max: 2}\n", "x.yaml:9: members: min 3 is more than max 2"),
        ("checkpoints: {keep_last: 0}\n", "x.yaml:9: checkpoints.keep_last: input should be greater than or equal"),
        ("checkpoints: {evry: 3}\n", "x.yaml:9: checkpoints.evry: unknown"),
        (
            "members: {max: 158}\n",
            "x.yaml:9: members: max 158: a round's roster is one entry of the run's log, and its 16 KiB",
        ),
        ("seed: -1\n", "x.yaml:9: seed: input should be greater than or equal to 0, found -1"),
        ("seed: 1\nseed: 2\n", "x.yaml:10: found duplicate key"),
        ("a: [1\n", "x.yaml:10: "),
    ],
)
def test_a_bad_spec_is_refused_with_file_line_and_field(tmp_path: Path, extra: str, expected: str) -> None:
    assert refusal(tmp_path, GOOD + extra).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: x\n", "", "x.yaml:1: name: missing; add it"),
        ("  heads: 2\n", "", "x.yaml:2: model: family gpt2 needs heads as well"),
        ("  heads: 2\n", "  heads: 3\n", "x.yaml:2: model: hidden_size 32 is not a multiple of heads 3"),
        ("  family: gpt2\n", "  path: some\n", "x.yaml:2: model: heads belongs to family"),
        ("  family: gpt2\n", "", "x.yaml:2: model: needs either family"),
        ("  path: text.txt\n", "  sequence_length: 64\n", "x.yaml:7: data.path: missing"),
        (
            "  path: text.txt\n",
            "  path: text.txt\n  held_out: 0.0\ntraining: {target_loss: 2.0}\n",
            "x.yaml:1: spec: training.target_loss needs held-out samples; set data.held_out above 0",
        ),
        (GOOD, "- 1\n", "x.yaml:1: expected `key: value` lines, found list"),
        (GOOD, "", "x.yaml:1: expected `key: value` lines"),
    ],
)
def test_an_incomplete_spec_is_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert refusal(tmp_path, GOOD.replace(old, new)).startswith(expected)


def test_a_missing_or_binary_spec_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No such file"):
        RunSpec.load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8 text at byte 0"):
        RunSpec.load(tmp_path / "b.yaml")


def test_relative_paths_are_meant_from_the_spec_file_and_never_leave_the_machine(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "model").mkdir()
    path = tmp_path / "recipes" / "x.yaml"
    path.write_text("name: x\nmodel: {path: ../model}\ndata: {path: ../text.txt}\n")
    spec = RunSpec.load(path)
    assert spec.data.path == str(tmp_path / "text.txt")
    assert spec.model.path == str(tmp_path / "model")
    assert str(tmp_path) not in json.dumps(spec.canonical())
    assert spec.canonical()["model"]["path"] == "model"


def test_a_hub_name_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: x\nmodel: {path: org/model}\ndata: {path: text.txt}\n")
    assert RunSpec.load(tmp_path / "x.yaml").canonical()["model"]["path"] == "org/model"


def scalars(value: Any) -> list[Any]:
    """All leaves of a JSON value."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in scalars(item)]
    return [leaf for item in value for leaf in scalars(item)] if isinstance(value, list) else [value]


SPECS = st.builds(
    lambda rate, decay, clip, micro, options, price, tokens, target: RunSpec.from_worker(
        {
            "name": "x",
            "model": {"family": "gpt2", "layers": 1, "hidden_size": 8, "heads": 1, "options": options},
            "training": {
                "learning_rate": rate, "codec": {"decay": decay}, "clip_updates": clip, "micro_batch_size": micro,
                "max_tokens": tokens, "target_loss": target,
            },
            "credits": {"price": price},
        }
    ),
    st.floats(1e-9, 1.0),
    st.floats(0.0, 1.0),
    st.booleans(),
    st.just("auto") | st.integers(1, 8),
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.booleans(), max_size=3),
    st.none() | st.integers(0, 1 << 53 - 1),
    st.none() | st.integers(1, (1 << 53) - 1),
    st.none() | st.floats(1e-6, 100.0),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(SPECS)
def test_the_canonical_form_holds_only_integers_and_strings_and_loses_nothing(spec: RunSpec) -> None:
    value = spec.canonical()
    assert all(type(leaf) in {int, str} for leaf in scalars(value))
    assert RunSpec.from_canonical(json.loads(json.dumps(value))) == spec
    assert RunSpec.from_worker(spec.for_worker()) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"learning_rate": "1e-3"}},
        {"training": {"learning_rate": 0.001}},
        {"training": {"clip_updates": "True"}},
        {"data": {"path": "/etc/passwd"}},
        {"unknown": 1},
        {"credits": {"price": "7"}},
    ],
)
def test_any_other_spelling_of_a_spec_is_refused(change: dict[str, Any]) -> None:
    model = {"family": "gpt2", "layers": 1, "hidden_size": 8, "heads": 1}
    value = RunSpec.from_worker({"name": "x", "model": model}).canonical()
    for key, item in change.items():
        value[key] = {**value[key], **item} if isinstance(item, dict) else item
    with pytest.raises(SpecError):
        RunSpec.from_canonical(value)


def test_the_recipes_load() -> None:
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert RunSpec.from_canonical(RunSpec.load(path).canonical()).name


def test_mode_synchronous_brings_its_own_codec_and_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(GOOD + "training: {mode: synchronous, betas: [0.8, 0.9]}\n")
    training = RunSpec.load(path).training
    assert (training.codec.kind, training.outer.kind, training.clip_updates) == ("f32", "adamw", False)
    recipe = RunSpec.load(ROOT / "recipes" / "synchronous.yaml")
    assert recipe.training.mode == "synchronous"
    assert RunSpec.load(ROOT / "recipes" / "tiny.yaml").training.codec.decay == 0.95


def test_the_default_price_is_a_micro_credit_per_gflop() -> None:
    assert default_price(1_000_000) == 6000


def test_importing_the_spec_does_not_import_torch() -> None:
    code = "import sys, p2p_llm_forge.config; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


PIPELINE = GOOD.replace("layers: 2", "layers: 6") + "training:\n  mode: synchronous\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{stages: 7}", "pipeline.stages 7 is more than model.layers 6; set 6 stages or fewer"),
        ("{stages: 1}", "x.yaml:11: pipeline.stages: input should be greater than or equal to 2"),
        ("{replicas: 2}", "x.yaml:11: pipeline.stages: missing; add it"),
        ("{stages: 2, replica: 1}", "x.yaml:11: pipeline.replica: unknown key; did you mean replicas?"),
        ("{stages: 2, activations: fp8}", "x.yaml:11: pipeline.activations: input should be 'int8'"),
        ("{stages: 2, microbatch_size: 3}", "microbatch_size 3 does not divide a driver's 40 sequences a round"),
        ("{stages: 5, replicas: 13}", "pipeline needs 65 members (5 stages times 13 replicas), members.max is 64; set"),
        ("{stages: 2, layers: [6]}", "x.yaml:11: pipeline: layers names 1 stages, stages is 2; make them agree"),
        ("{stages: 2, layers: [6, 0]}", "every stage has at least one layer; set fewer stages"),
        ("{stages: 2, layers: [2, 3]}", "pipeline.layers adds up to 5, model.layers is 6; make them agree"),
    ],
)
def test_a_pipeline_that_cannot_be_is_refused_with_the_way_out(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, f"{PIPELINE}pipeline: {text}\n")


def test_a_pipeline_needs_mode_synchronous(tmp_path: Path) -> None:
    told = "pipeline shares one batch a round between the stages; set training.mode: synchronous"
    assert told in refusal(tmp_path, GOOD + "pipeline: {stages: 2}\n")


def test_the_canonical_form_holds_a_pipeline_and_leaves_out_none(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(GOOD)
    assert "pipeline" not in RunSpec.load(path).canonical()
    path.write_text(PIPELINE + "pipeline: {stages: 2, layers: [4, 2]}\n")
    spec = RunSpec.load(path)
    assert spec.canonical()["pipeline"] == {
        "stages": 2, "replicas": 2, "microbatch_size": 4, "in_flight": 16, "activations": "bf16", "layers": [4, 2],
        "costs": "estimated",
    }  # fmt: skip
    assert RunSpec.from_canonical(spec.canonical()).canonical() == spec.canonical()
