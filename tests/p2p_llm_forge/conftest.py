"""A small prepared run that the worker tests share."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge.config import RunSpec

from .client import Client

WORDS = "the miller ground barley by the river while seven geese watched from a low wall and said nothing".split()


def corpus_text(sentences: int = 1500) -> str:
    """Plain sentences with some structure."""
    step = 7
    lines = []
    for number in range(sentences):
        picked = [WORDS[(number * step + place * (number % 5 + 1)) % len(WORDS)] for place in range(9)]
        lines.append(" ".join(picked).capitalize() + ".")
    return "\n".join(lines) + "\n"


def spec_fields(corpus: Path, **training: Any) -> dict[str, Any]:
    """A tiny GPT-2 run on this corpus, as `prepare` takes it."""
    fields = {
        "name": "test",
        "seed": 3,
        "model": {"family": "gpt2", "layers": 2, "hidden_size": 32, "heads": 2},
        "data": {"path": str(corpus), "sequence_length": 32, "held_out": 0.1, "tokenizer": {"vocab_size": 400}},
        "training": {"rounds": 4, "inner_steps": 4, "batch_size": 4, "learning_rate": 0.003, **training},
    }
    return RunSpec.from_worker(fields).for_worker()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A prepared run and how to open it."""

    prepared: dict[str, Any]
    folder: Path
    corpus: Path

    @property
    def open(self) -> dict[str, Any]:
        """The fields of `open`."""
        return {"config": self.prepared["config"], **self.prepared["blobs"]}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than such small tensors do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hundreds of states are written, flushing them takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A worker that single-request tests share."""
    with Client(tmp_path_factory.mktemp("shared") / "worker") as client:
        yield client


@pytest.fixture(scope="session")
def run(worker: Client, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A prepared tiny GPT-2 run."""
    folder = tmp_path_factory.mktemp("run")
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text())
    return Run(prepared=worker("prepare", spec=spec_fields(corpus), out=str(folder)), folder=folder, corpus=corpus)
