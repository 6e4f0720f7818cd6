"""Which `transformers` families can be cut into stages: tries every one, and writes docs/families.md.

    python -m scripts.families               writes the table (several minutes)
    python -m scripts.families gpt2 llama    prints the rows of these

Each family's default configuration is made small (`stages.shrink`), once with tied and once with untied embeddings,
cut into 2, 3 and 5 stages, and compared with the whole model: loss and every gradient, bit for bit. Then the same with
dropout 0.1 wherever the family has some, both seeded alike where a stage begins.

IO: writes the one file.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from p2p_llm_forge import model
from p2p_llm_forge.errors import ModelError, SplitError
from p2p_llm_forge.stages import anatomy, cut, parity, shrink
from p2p_llm_forge.stages.anatomy import Anatomy

TABLE = Path(__file__).parents[1] / "docs" / "families.md"
STAGES = (2, 3, 5)
LAYERS = shrink.FEW_LAYERS
DROPOUT = 0.1
OPTIONS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 2, "head_dim": 64},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"num_hidden_layers": 8, "layer_types": ["conv", "conv", "full_attention", "conv"] * 2},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 48, "head_dim": 128},
    "nemotron_h": {"layer_types": ["linear_attention", "moe", "full_attention", "mlp"] * 2},
    "plbart": {"decoder_attention_heads": 4},
}
"""Where the defaults alone make no model."""
COUNTS = ", ".join(map(str, STAGES))
YES, NONE = "exact", "·"
HEAD = f"""\
# Families that can be cut into stages

Written by `python -m scripts.families`; `tests/p2p_llm_forge/test_stages_families.py` checks it. Each family's default
configuration, made small, was cut into {COUNTS} stages and compared with the whole model: the loss and every gradient
are the same, bit for bit, with tied and with untied embeddings ({NONE}: the family has only the other kind). With
dropout {DROPOUT}, both seeded alike where a stage begins, they are so too ({NONE}: the family has none).

A run compares once more when it is submitted, with its own options and number of stages, on a small model of the same
kind, and is refused (FP-112) with the first module whose output or gradient differs. Refused are also layers that run
more than once, that share parameters, or that have modules with parameters between them.

"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found of one family."""

    family: str
    tied: str
    untied: str
    dropout: str
    reason: str
    """Why it cannot be cut; empty if it can."""

    def line(self) -> str:
        """Of the table that it belongs to."""
        if self.reason:
            return f"| {self.family} | {self.reason} |"
        return f"| {self.family} | {self.tied} | {self.untied} | {self.dropout} |"


def families() -> list[str]:
    """All causal language models that `transformers` knows, in order of name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def examine(family: str) -> Row:
    """Try one family."""
    try:
        known = anatomy.of(_default(family), max(STAGES))
        found = {tie: _compare_tied(known, tie) for tie in (True, False)}
        dropout = _compare_dropout(known)
    except (SplitError, ModelError) as exc:
        return Row(family=family, tied="", untied="", dropout="", reason=_reason(exc))
    except anatomy.faults() as exc:
        return Row(family=family, tied="", untied="", dropout="", reason=anatomy.first_line(exc).replace("|", "/"))
    return Row(family=family, tied=found[True], untied=found[False], dropout=dropout, reason="")


def _default(family: str) -> Any:
    """The family's default configuration, with layers enough."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(family, **OPTIONS.get(family, {}))
    if getattr(config, "num_hidden_layers", LAYERS) < LAYERS:
        return AutoConfig.for_model(family, num_hidden_layers=LAYERS, **OPTIONS.get(family, {}))
    return config


def _reason(exc: SplitError | ModelError) -> str:
    return exc.message.removeprefix("model: ").removesuffix(f"; {anatomy.WAY_OUT}").replace("|", "/")


def _changed(config: Any, **changes: Any) -> Any:
    from transformers import AutoConfig

    values = {**config.to_dict(), **changes}
    for name in ("transformers_version", "architectures", "torch_dtype", "dtype", "name_or_path"):
        values.pop(name, None)
    return AutoConfig.for_model(**values)


def _compare_tied(known: Anatomy, tie: bool) -> str:
    """Compare with embeddings tied or not; raises SplitError where they differ."""
    config = _changed(known.specimen, tie_word_embeddings=tie)
    whole: Any = model.build(config, 0)
    head = whole.get_output_embeddings()
    if (head is not None and head.weight is whole.get_input_embeddings().weight) != tie:
        return NONE
    for stages in STAGES:
        _compare(whole, known, config, stages)
    return YES


def _compare(whole: Any, known: Anatomy, config: Any, stages: int, reseed: Callable[[int], None] | None = None) -> None:
    layers = cut.even(len(whole.get_submodule(known.layers)), stages)
    if reseed is None:
        parity.compare(whole, known, layers, config)
    else:
        parity.compare(whole, known, layers, config, reseed)


def _compare_dropout(known: Anatomy) -> str:
    rates = [
        name
        for name, value in known.specimen.to_dict().items()
        if isinstance(value, float) and value == 0.0 and ("dropout" in name or "pdrop" in name) and "layer" not in name
    ]
    if not rates:
        return NONE
    config = _changed(known.specimen, **dict.fromkeys(rates, DROPOUT))
    try:
        whole = model.build(config, 0)
    except ModelError:  # it has the setting, and refuses to use it
        return NONE
    _compare(whole, known, config, 3, lambda stage: void(torch.manual_seed(1000 + stage)))
    return YES


def void(_: object) -> None:
    """Nothing."""


def table(rows: Sequence[Row]) -> str:
    """The whole document."""
    good, bad = [row for row in rows if not row.reason], [row for row in rows if row.reason]
    lines = [f"{len(good)} families:", "", "| family | tied | untied | dropout |", "|---|---|---|---|"]
    lines += [row.line() for row in good]
    lines += [
        "",
        f"{len(bad)} are refused with this reason (FP-112), some of them because their defaults make no small",
    ]
    lines += ["model to compare with; of models with images or sound, the text part may be a family of its own:", ""]
    lines += ["| family | reason |"]
    lines += ["|---|---|", *(row.line() for row in bad)]
    return HEAD + "\n".join(lines) + "\n"


def examined(names: Sequence[str]) -> Iterator[Row]:
    """Row after row."""
    from transformers.utils import logging

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    for name in names:
        row = examine(name)
        print(row.line(), file=sys.stderr, flush=True)
        yield row


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("family", nargs="*", help="only print these")
    given = parser.parse_args(arguments)
    rows = list(examined(given.family or families()))
    if not given.family:
        TABLE.write_text(table(rows), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
