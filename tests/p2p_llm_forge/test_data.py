"""Tokenizers and shards: nothing of the text is lost, and every malformed blob is refused."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p_llm_forge.blobs import blob_id, encode_json
from p2p_llm_forge.data import shards, tokenize
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.errors import BlobError, CorpusError, TokenizerError
from p2p_llm_forge.settings import TokenizerSpec

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200).filter(lambda text: tokenize.END not in text)


@pytest.fixture(scope="module")
def bpe() -> tokenize.TextCodec:
    """Trained on a few sentences."""
    return tokenize.make(TokenizerSpec(vocab_size=300), ["the seven geese and the miller said nothing\n"] * 50)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT)
def test_byte_level_tokenizers_lose_nothing(bpe: tokenize.TextCodec, text: str) -> None:
    for codec in (bpe, tokenize.make(TokenizerSpec(kind="bytes"), [])):
        assert codec.decode(codec.encode(text)) == text
    assert len(tokenize.make(TokenizerSpec(kind="bytes"), []).encode(text)) == len(text.encode())


def test_a_trained_tokenizer_compresses_and_keeps_to_its_size(bpe: tokenize.TextCodec) -> None:
    assert bpe.vocab_size <= 300
    assert len(bpe.encode("the seven geese")) < 8
    assert bpe.end_id is not None


def test_a_tokenizer_blob_round_trips(bpe: tokenize.TextCodec) -> None:
    again = tokenize.load(bpe.blob())
    assert again.encode("seven geese") == bpe.encode("seven geese")
    assert again.blob() == bpe.blob()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "expected an object"),
        ({"a.json": "{}"}, "no tokenizer.json"),
        ({"../evil.json": "", "tokenizer.json": "{}"}, "bad entry"),
        ({"code.py": "", "tokenizer.json": "{}"}, "neither .json nor .jinja"),
        ({"tokenizer.json": "{}"}, "cannot be parsed"),
        ({"tokenizer.json": 1}, "bad entry"),
    ],
)
def test_a_malformed_tokenizer_blob_is_refused(files: Any, reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        tokenize.load(encode_json(files))


def pack(folder: Path, tokens: int, *, length: int = 16, held_out: float = 0.1, vocab: int = 1000) -> Any:
    """Shards of an ascending token stream, fed in uneven pieces."""
    stream = np.arange(tokens, dtype=np.uint32) % vocab
    cuts = sorted({0, tokens // 3, tokens // 2, tokens})
    pieces = [stream[low:high] for low, high in itertools.pairwise(cuts)]
    return shards.pack(pieces, folder=folder, sequence_length=length, held_out=held_out, vocab_size=vocab, corpus="c")


@pytest.mark.parametrize(("tokens", "vocab"), [(17, 1000), (1000, 1000), (1 << 21, 1000), (700_001, 70_000)])
def test_windows_read_back_the_stream_across_shards(tmp_path: Path, tokens: int, vocab: int) -> None:
    manifest, paths = pack(tmp_path, tokens, vocab=vocab)
    assert [blob_id(path.read_bytes()) for path in paths] == list(manifest.shards)
    assert shards.Manifest.parse(manifest.encode()) == manifest
    reader = shards.Shards(manifest, paths)
    count = manifest.train_slots + manifest.held_out_slots
    assert count == (tokens - 1) // 16
    windows = np.unique(np.linspace(0, count - 1, 999).astype(np.uint64))
    expected = (windows.astype(np.int64)[:, None] * 16 + np.arange(17)) % vocab
    assert np.array_equal(reader.read(windows), expected)


def test_held_out_targets_are_never_trained_on(tmp_path: Path) -> None:
    manifest, paths = pack(tmp_path, 1601, vocab=2000, held_out=0.3)
    reader = shards.Shards(manifest, paths)
    sampler = Sampler(seed=1, train_slots=manifest.train_slots, held_out_slots=manifest.held_out_slots)
    trained = set(reader.read(sampler.windows(0, manifest.train_slots))[:, 1:].ravel().tolist())
    held = set(reader.read(sampler.held_out(10**6))[:, 1:].ravel().tolist())
    assert held
    assert not trained & held


def test_too_short_a_corpus_and_foreign_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"16 tokens, shorter than one sequence of 16 \(\+1\)"):
        pack(tmp_path, 16)
    manifest, paths = pack(tmp_path, 200, vocab=100)
    paths[0].write_bytes(b"\xff" * paths[0].stat().st_size)
    with pytest.raises(BlobError, match="token 65535 is outside the vocabulary of 100"):
        shards.Shards(manifest, paths).read(np.array([0], dtype=np.uint64))
    paths[0].write_bytes(b"")
    with pytest.raises(BlobError, match="0 bytes, expected"):
        shards.Shards(manifest, paths)
    with pytest.raises(BlobError, match="0 files, the manifest lists 1"):
        shards.Shards(manifest, [])


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 202}, {"train_slots": 0}, {"dtype": "int8"}, {"shards": []}, {"shards": ["x"]}, {"version": 2},
        {"unknown": 1}, {"train_slots": True}, {"sequence_length": 1 << 40}, {"shards": ["0" * 64 + "-99999"]},
        {"shards": ["A" * 64 + "-386"]}, {"shards": ["0" * 64 + "-0386"]},
    ],
)  # fmt: skip
def test_a_malformed_manifest_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    manifest, _ = pack(tmp_path, 200, vocab=100)
    with pytest.raises(BlobError, match="manifest"):
        shards.Manifest.parse(encode_json({**manifest.model_dump(mode="json"), **change}))
