"""Small models of the same family with the same options, to look at and to compare in a moment.

Layers become few, vocabulary and widths small, dropout none; everything else stays as it is. What a family demands of
its sizes differs, so there are several candidates: the first that can be built and run is the one to take.

Pure: configurations in and out.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from p2p_llm_forge import model

FEW_LAYERS = 8
"""Enough for the usual patterns of layer kinds."""
HEADS, HEAD_SIZE, INNER, EXPERTS, ROWS = 4, 16, 32, 32, 128
_HIDDEN = HEADS * HEAD_SIZE
_INNER_NAMES = ("intermediate", "ffn", "n_inner")
_DROPOUT_NAMES = ("dropout", "pdrop", "drop_rate", "layerdrop", "jitter")
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")


def candidates(config: Any, stages: int) -> Iterator[Any]:
    """Configurations like this one, the smallest first, with at least as many layers as stages where it has them."""
    from transformers import AutoConfig

    given = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    few = {**given, **_shallow(config, given, max(stages, FEW_LAYERS)), **_without_dropout(given)}
    if (rows := _name(config, given, "vocab_size")) is not None:
        few[rows] = min(few[rows], ROWS)
    for narrow, token in product((_narrow(config, few), {}), (None, 0)):
        values = {**few, **narrow, **{name: token for name in _SPECIAL if name in few}}
        for name in ("transformers_version", "architectures", "torch_dtype", "dtype", "name_or_path"):
            values.pop(name, None)
        try:
            yield AutoConfig.for_model(**values)
        except model.build_errors():
            continue  # sizes that this family refuses; another candidate may do


def _name(config: Any, values: dict[str, Any], common: str) -> str | None:
    """What the family calls a size, where it has it as a number."""
    for name in (common, config.attribute_map.get(common, common)):
        if isinstance(values.get(name), int) and not isinstance(values[name], bool):
            return name
    return None


def _shallow(config: Any, values: dict[str, Any], most: int) -> dict[str, Any]:
    """Fewer layers, and what is listed for each of them cut to as many."""
    name = _name(config, values, "num_hidden_layers") or _name(config, values, "num_layers")
    if name is None or values[name] <= most:
        return {}
    layers = values[name]
    cut: dict[str, Any] = {name: most}
    for key, value in values.items():
        if isinstance(value, (list, tuple) if "pattern" not in key else (list, tuple, str)) and len(value) == layers:
            cut[key] = value[:most]
    if isinstance(values.get("attention_types"), list) and isinstance(values.get("attention_layers"), list):
        cut["attention_types"] = [[values["attention_layers"][:most], 1]]
    return cut


def draws(config: Any) -> bool:
    """Whether a model with this configuration draws random numbers while it trains."""
    values = config.to_dict()
    return any(values[key] for key in _without_dropout(values))


def _without_dropout(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: 0.0
        for key, value in values.items()
        if isinstance(value, float) and any(part in key for part in _DROPOUT_NAMES)
    }


def _narrow(config: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Four heads of sixteen, and narrow feed-forward parts."""
    hidden, heads = (_name(config, values, common) for common in ("hidden_size", "num_attention_heads"))
    if hidden is None or values[hidden] <= _HIDDEN:
        return {}
    narrow: dict[str, Any] = {hidden: _HIDDEN}
    if heads is not None:
        narrow[heads] = HEADS
    if values.get("head_dim") and "qk_rope_head_dim" not in values:
        narrow["head_dim"] = HEAD_SIZE
    for key in ("num_key_value_heads", "num_kv_heads", "n_head_kv"):
        if (groups := values.get(key)) and heads is not None:
            narrow[key] = HEADS if groups == values[heads] else min(groups, HEADS // 2)
    for key, value in values.items():
        if isinstance(value, int) and (least := _least(key, value)) < value:
            narrow[key] = least
    if isinstance(expand := values.get("mamba_expand", values.get("expand")), int):
        _narrow_scans(narrow, values, expand * _HIDDEN)
    return narrow


def _least(key: str, value: int) -> int:
    """How small a size of this name may become."""
    if any(part in key for part in _INNER_NAMES):
        return INNER
    if key.endswith(("experts", "_lora_rank")):
        return EXPERTS
    if key.startswith("linear_num") and key.endswith("heads"):
        return max(value // 8, 1)
    if key.endswith("chunk_size") or (key.startswith("linear") and key.endswith("head_dim")):
        return HEAD_SIZE
    if key in ("word_embed_proj_dim", "embedding_size", "lru_width"):
        return _HIDDEN
    return HEAD_SIZE // 2 if key == "rotary_dim" else value


def _narrow_scans(narrow: dict[str, Any], values: dict[str, Any], inner: int) -> None:
    """State space layers: so many heads that they fill the inner width."""
    for heads, size in (("mamba_n_heads", "mamba_d_head"), ("num_heads", "head_dim")):
        if isinstance(values.get(heads), int) and isinstance(values.get(size), int):
            narrow.update({heads: inner // HEAD_SIZE, size: HEAD_SIZE})
    if isinstance(values.get("mamba_d_ssm"), int):
        narrow["mamba_d_ssm"] = inner
