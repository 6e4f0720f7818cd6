"""Builds a causal language model from a spec, a model blob or a local folder.

A model blob is canonical JSON {"format", "config"} with the complete `transformers` configuration. Nothing in it can
name code: remote code, kernels, quantizers and private settings are refused, and attention is PyTorch's own.

IO: `from_folder` reads a local model folder or the local hub cache; everything else touches no file.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from p2p_llm_forge.blobs import decode_json, encode_json
from p2p_llm_forge.errors import ModelError
from p2p_llm_forge.settings import ModelSpec
from p2p_llm_forge.specfile import suggestion

FORMAT = "p2p-llm-forge/model/v1"
LIMIT_BYTES = 1 << 20
MAX_LAYERS = 1024
MAX_NUMBER = 1 << 22

_REFUSED = {"auto_map", "quantization_config", "attn_implementation", "experts_implementation", "custom_pipelines"}
_DROPPED = {"transformers_version", "architectures", "torch_dtype", "dtype", "name_or_path"}
_DROPOUT = (
    "dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "attention_dropout",
    "hidden_dropout",
    "embed_dropout",
)
_COMMON = {
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "heads": "num_attention_heads",
    "key_value_heads": "num_key_value_heads",
    "feed_forward_size": "intermediate_size",
    "context": "max_position_embeddings",
}
_OTHER_NAMES = {
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "max_position_embeddings": ("max_seq_len",),
}

_BUILD_ERRORS = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, ImportError,
    AssertionError, ArithmeticError, OSError, NotImplementedError,
)  # fmt: skip


def build_errors() -> tuple[type[Exception], ...]:
    """What hostile or mistaken settings make `transformers` and torch raise while a model is built and run."""
    from huggingface_hub.errors import StrictDataclassError

    return (*_BUILD_ERRORS, StrictDataclassError)


def config_from_spec(spec: ModelSpec, *, vocab_size: int, sequence_length: int, end_id: int | None) -> Any:
    """The `transformers` configuration of a family with the spec's sizes.

    Raises:
        ModelError: an unknown family or option, or sizes that do not go together.
    """
    from transformers import AutoConfig

    assert spec.family is not None
    values: dict[str, Any] = dict(spec.options)
    _check_safe(values, "model.options")
    known = _family_config(spec.family)
    for name, common in _COMMON.items():
        value = getattr(spec, name)
        if value is not None:
            values[_attribute(known, common, f"model.{name}", spec.family)] = value
    if spec.context is None and (context := _find(known, "max_position_embeddings")):
        values.setdefault(context, sequence_length)
    if spec.key_value_heads is None and hasattr(known, "num_key_value_heads"):
        values.setdefault("num_key_value_heads", spec.heads)
    if spec.feed_forward_size is None and _find(known, "intermediate_size") == "intermediate_size":
        values.setdefault("intermediate_size", 4 * (spec.hidden_size or 0))
    for name in _DROPOUT:
        if hasattr(known, name):
            values.setdefault(name, spec.dropout)
    for name in spec.options:
        if not hasattr(known, name) and name not in known.attribute_map:
            hint = suggestion(name, {*known.to_dict(), *known.attribute_map})
            raise ModelError(f"model.options.{name}: {spec.family} has no such setting{hint}")
    values["vocab_size"] = spec.vocab_size or vocab_size
    values.update({"bos_token_id": end_id, "eos_token_id": end_id, "pad_token_id": None})
    try:
        return AutoConfig.for_model(spec.family, **values)
    except build_errors() as exc:
        raise ModelError(f"model: {spec.family} refuses these settings ({_first(exc)})") from exc


def _family_config(family: str) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        hint = suggestion(family, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise ModelError(f"model.family: {family} is no causal language model of this transformers version{hint}")
    return AutoConfig.for_model(family)


def _find(config: Any, common: str) -> str | None:
    for name in (common, *_OTHER_NAMES.get(common, ())):
        if hasattr(config, name) or name in config.attribute_map:
            return name
    return None


def _attribute(config: Any, common: str, field: str, family: str) -> str:
    name = _find(config, common)
    if name is None:
        raise ModelError(f"{field}: {family} has no such setting; leave it out")
    return name


def _first(exc: BaseException) -> str:
    lines = str(exc).splitlines()
    return f"{type(exc).__name__}: {lines[0][:160]}" if lines else type(exc).__name__


def _check_safe(values: Any, where: str, depth: int = 0) -> None:
    """Refuse settings that could name code, and numbers that no model on this network needs."""
    if depth > 6:
        raise ModelError(f"{where}: nested too deeply")
    if isinstance(values, dict):
        for key, value in values.items():
            if key in _REFUSED or key.startswith("_"):
                raise ModelError(f"{where}.{key}: is not allowed; code, kernels and quantizers never come from a spec")
            _check_safe(value, f"{where}.{key}", depth + 1)
    elif isinstance(values, list):
        for index, value in enumerate(values[: MAX_LAYERS + 1]):
            _check_safe(value, f"{where}[{index}]", depth + 1)
    elif isinstance(values, int) and abs(values) > (MAX_LAYERS if where.endswith(("layers", "n_layer")) else 1 << 40):
        raise ModelError(f"{where}: {values} is beyond anything this engine builds")


def blob_from_config(config: Any) -> bytes:
    """The model blob of a `transformers` configuration."""
    values = {key: value for key, value in config.to_dict().items() if key not in _DROPPED and not key.startswith("_")}
    return encode_json({"format": FORMAT, "config": values})


def config_from_blob(blob: bytes) -> Any:
    """Parse a model blob strictly.

    Raises:
        BlobError: not canonical JSON. ModelError: not a configuration that may be built.
    """
    from transformers import AutoConfig

    value = decode_json(blob, "model blob")
    if not isinstance(value, dict) or set(value) != {"format", "config"} or value["format"] != FORMAT:
        raise ModelError(f"model blob: expected format {FORMAT} and config")
    values = value["config"]
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise ModelError("model blob: config has no model_type")
    _check_safe(values, "model blob")
    family = values["model_type"]
    _family_config(family)
    try:
        return AutoConfig.for_model(**values)
    except build_errors() as exc:
        raise ModelError(f"model blob: {family} refuses these settings ({_first(exc)})") from exc


def build(config: Any, seed: int) -> nn.Module:
    """The model with random fp32 weights, on the CPU; weights are the same only on the same kind of machine."""
    torch.manual_seed(seed)
    return from_config(config).float()


def from_config(config: Any) -> nn.Module:
    """The model of a configuration, on torch's current default device. Raises ModelError."""
    from transformers import AutoModelForCausalLM

    config._attn_implementation = "sdpa"
    try:
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=torch.float32)
        except (ValueError, ImportError):  # a family without scaled_dot_product_attention
            config._attn_implementation = "eager"
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, dtype=torch.float32)
    except build_errors() as exc:
        raise ModelError(f"model: {config.model_type} cannot be built ({_first(exc)})") from exc
    assert isinstance(model, nn.Module)
    return model


def from_folder(path: str) -> nn.Module:
    """A pretrained model in fp32 from a folder of safetensors, or from the local hub cache.

    Raises:
        ModelError: missing, no safetensors, no causal language model, or code of its own.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except build_errors() as exc:
        raise ModelError(
            f"model.path: {path}: cannot be loaded ({_first(exc)}); give a folder with config.json and *.safetensors, "
            "or fetch a hub name into the local cache first"
        ) from exc
    assert isinstance(model, nn.Module)
    return model


def read_config(path: str) -> Any:
    """The configuration in a local folder or the local hub cache. Raises ModelError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except build_errors() as exc:
        raise ModelError(
            f"model.path: {path}: no usable config.json ({_first(exc)}); give a model folder, "
            "or fetch a hub name into the local cache first"
        ) from exc


def vocabulary(config: Any) -> int:
    """Rows of the embedding. Raises ModelError where a configuration names none."""
    rows = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    if not isinstance(rows, int) or rows < 2:
        raise ModelError(f"model: {config.model_type} names no vocab_size")
    return rows


def width(config: Any) -> int:
    """Hidden size: values of a token between two layers. Raises ModelError where a configuration names none."""
    size = getattr(config.get_text_config(decoder=True), "hidden_size", None)
    if not isinstance(size, int) or size < 1:
        raise ModelError(f"model: {config.model_type} names no hidden_size")
    return size


def context_length(config: Any) -> int | None:
    """The longest sequence the model can see, where it has a limit."""
    name = _find(config, "max_position_embeddings")
    value = getattr(config, name, None) if name else None
    return int(value) if isinstance(value, int) else None
