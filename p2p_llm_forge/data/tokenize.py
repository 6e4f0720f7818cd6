"""Makes or loads the run's tokenizer; its blob is canonical JSON {file name: text} of a `transformers` folder.

IO: reads the corpus or a local tokenizer folder, and a temporary folder.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from p2p_llm_forge.blobs import decode_json, encode_json
from p2p_llm_forge.errors import TokenizerError
from p2p_llm_forge.settings import TokenizerSpec

END = "<|endoftext|>"
LIMIT_BYTES = 64 << 20
_FILES = 32
_BATCH_PIECES = 16


@dataclass(frozen=True, kw_only=True)
class TextCodec:
    """A tokenizer and the files it is exported as."""

    tokenizer: Any
    """The `tokenizers.Tokenizer`."""
    files: dict[str, str]
    """File name → text; always with tokenizer.json."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def end_id(self) -> int | None:
        """The id of the end-of-text token, where the tokenizer has one."""
        for name in (END, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>"):
            token = self.tokenizer.token_to_id(name)
            if token is not None:
                return int(token)
        return None

    def encode(self, text: str) -> list[int]:
        """Token ids, without added special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_pieces(self, pieces: Iterable[str]) -> Iterable[npt.NDArray[np.uint32]]:
        """Token ids of each piece in order, and the end token at the end where there is one."""
        waiting = iter(pieces)
        while batch := list(itertools.islice(waiting, _BATCH_PIECES)):
            for encoded in self.tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield np.asarray(encoded.ids, dtype=np.uint32)
        if self.end_id is not None:
            yield np.asarray([self.end_id], dtype=np.uint32)

    def decode(self, tokens: list[int]) -> str:
        """The text of these tokens, without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def blob(self) -> bytes:
        """The tokenizer blob."""
        return encode_json(self.files)


def make(spec: TokenizerSpec, pieces: Iterable[str]) -> TextCodec:
    """The tokenizer that the spec asks for; `pieces` is read only when one is trained.

    Raises:
        TokenizerError: a folder that cannot be used. CorpusError: from reading the pieces.
    """
    if spec.path is not None:
        return _from_folder(spec.path)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if spec.kind == "bytes":
        vocab = {**{letter: index for index, letter in enumerate(alphabet)}}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    else:
        tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if spec.kind == "bytes":
        tokenizer.add_special_tokens([END])
    else:
        trainer = trainers.BpeTrainer(
            vocab_size=spec.vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(iter(pieces), trainer=trainer)
    return _wrap(tokenizer)


def _wrap(tokenizer: Any) -> TextCodec:
    from transformers import PreTrainedTokenizerFast

    return _saved(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END))


def _from_folder(path: str) -> TextCodec:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False, use_fast=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as exc:
        reason = str(exc).splitlines()[0][:160] if str(exc) else type(exc).__name__
        raise TokenizerError(
            f"tokenizer {path}: cannot be loaded ({reason}); give a folder with tokenizer.json, "
            "or fetch a hub name into the local cache first"
        ) from exc
    if not getattr(tokenizer, "is_fast", False):
        raise TokenizerError(f"tokenizer {path}: has no tokenizer.json; save it as a fast tokenizer first")
    return _saved(tokenizer)


def _saved(tokenizer: Any) -> TextCodec:
    with tempfile.TemporaryDirectory(prefix="forge-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        texts = {file.name: file.read_text() for file in Path(folder).iterdir() if file.suffix in {".json", ".jinja"}}
    return _codec(texts, "tokenizer")


def load(blob: bytes) -> TextCodec:
    """Parse a tokenizer blob strictly.

    Raises:
        BlobError: not canonical JSON. TokenizerError: not a tokenizer.
    """
    files = decode_json(blob, "tokenizer blob")
    if not isinstance(files, dict) or not 1 <= len(files) <= _FILES:
        raise TokenizerError("tokenizer blob: expected an object {file name: text}")
    for name, text in files.items():
        plain = name.isascii() and name.replace("_", "").replace(".", "").replace("-", "").isalnum()
        if not isinstance(text, str) or not plain or name.startswith(".") or ".." in name:
            raise TokenizerError(f"tokenizer blob: bad entry {name[:40]!r}; expected plain file names with text")
        if not name.endswith((".json", ".jinja")):
            raise TokenizerError(f"tokenizer blob: {name[:40]!r} is neither .json nor .jinja")
    return _codec(files, "tokenizer blob")


def _codec(files: dict[str, str], what: str) -> TextCodec:
    if "tokenizer.json" not in files:
        raise TokenizerError(f"{what}: has no tokenizer.json")
    try:
        tokenizer = Tokenizer.from_buffer(files["tokenizer.json"].encode())
    except ValueError as exc:
        raise TokenizerError(f"{what}: tokenizer.json cannot be parsed ({str(exc)[:120]})") from exc
    return TextCodec(tokenizer=tokenizer, files=files)
