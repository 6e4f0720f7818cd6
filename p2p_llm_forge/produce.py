"""What comes out of a run: a Hugging Face model folder, and text.

IO: `export` writes one folder, whole or absent; `generate` only computes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge import model
from p2p_llm_forge.blobs import decode_json, disk_error, sync_folder, write_atomic
from p2p_llm_forge.data.tokenize import TextCodec
from p2p_llm_forge.errors import RequestError
from p2p_llm_forge.state import State

CONFIG = "config.json"
WRITTEN_BY_TRANSFORMERS = ("architectures", "dtype", "transformers_version")
"""What `config.json` has beyond the model blob."""
BESIDES_WEIGHTS = "provenance/state"
"""What of the state is not in the weights' files, for whoever recomputes its id from them."""


def export(
    trained: nn.Module, state: State | Sequence[State], model_blob: bytes, tokenizer: TextCodec, to: Path
) -> list[str]:
    """Write the model, which has the weights of `state`, and the tokenizer as a folder that `from_pretrained` loads.

    Returns the file names; `ledger.exported` checks the folder by them.

    Args:
        state: the whole model's, or those of its stages.

    Raises:
        RequestError: `to` exists and is not an empty folder. DiskError: it cannot be written.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RequestError(f"export: {to} exists already; choose another folder")
    part = to.with_name(f".{to.name}.{os.getpid()}.part")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        writer: Any = trained  # in its own names for the tensors, which are those of the state
        writer.save_pretrained(part, state_dict=_own_storage(trained), save_original_format=False)
        _write_config(part / CONFIG, model_blob)
        for name, text in tokenizer.files.items():
            (part / name).write_text(text, "utf-8")
        whole = {BESIDES_WEIGHTS: state} if isinstance(state, State) else {}
        stages = enumerate(state) if not isinstance(state, State) else ()
        for name, one in (whole | {f"{BESIDES_WEIGHTS}-{index}": stage for index, stage in stages}).items():
            write_atomic(part / name, one.besides_weights())
        files = [file for file in part.rglob("*") if file.is_file()]
        for file in files:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(part)
        part.rename(to)
        sync_folder(to.parent)
    except OSError as exc:
        raise disk_error(exc, to) from exc
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(file.relative_to(part).as_posix() for file in files)


def _write_config(path: Path, model_blob: bytes) -> None:
    """The model blob's configuration whole, where `transformers` leaves out what is a default of its version."""
    saved = json.loads(path.read_bytes())
    written = {name: saved[name] for name in WRITTEN_BY_TRANSFORMERS if name in saved}
    values = {**decode_json(model_blob, "model blob")["config"], **written}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")


def _own_storage(trained: nn.Module) -> dict[str, Tensor]:
    """The state dict with a storage per tensor: the parameters share one flat vector; tied ones stay tied."""
    copies: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    out: dict[str, Tensor] = {}
    for name, tensor in trained.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in copies:
            copies[key] = tensor.detach().cpu().clone()
        out[name] = copies[key]
    return out


@torch.no_grad()
def generate(
    trained: nn.Module, tokenizer: TextCodec, config: Any, device: torch.device, *,
    prompt: str, tokens: int, temperature: float, top_k: int, seed: int,
) -> Iterator[str]:  # fmt: skip
    """Continue the prompt; yields text as it becomes complete, and stops at an end token.

    Raises:
        RequestError: the prompt has no tokens and the tokenizer no end token to start from.
    """
    trained.eval()
    seen = tokenizer.encode(prompt) or ([] if tokenizer.end_id is None else [tokenizer.end_id])
    if not seen:
        raise RequestError("generate: the prompt is empty; give at least one character")
    limit = model.context_length(config) or 1 << 30
    chosen = torch.Generator().manual_seed(seed)
    new: list[int] = []
    shown = ""
    cache, feed = None, seen[-max(limit - 1, 1) :]
    held = 0
    for _ in range(tokens):
        if held + len(feed) > limit:  # the window is full: start again from its second half
            cache, held, feed = None, 0, (seen + new)[-max(limit // 2, 1) :]
        out = trained(input_ids=torch.tensor([feed], device=device), past_key_values=cache, use_cache=True)
        cache, held = out.past_key_values, held + len(feed)
        if cache is None:
            held = 0
        token = _draw(out.logits[0, -1, : tokenizer.vocab_size].float().cpu(), temperature, top_k, chosen)
        if token == tokenizer.end_id:
            break
        new.append(token)
        feed = [token] if cache is not None else (seen + new)[-limit:]
        text = tokenizer.decode(new)
        if not text.endswith("�") and len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    rest = tokenizer.decode(new)[len(shown) :]
    if rest:
        yield rest


def _draw(logits: Tensor, temperature: float, top_k: int, chosen: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        least = logits.topk(top_k).values[-1]
        logits = torch.where(logits < least, -torch.inf, logits)
    return int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=chosen))
