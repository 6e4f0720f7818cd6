"""What the demo is asked to do: its options, its run spec, its folder.

IO: makes and empties the demo's folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peer.demo.peers import DemoFailed

MARK = "forge-demo.txt"
DEFAULT_ROUNDS = 36
SAMPLE = Path(__file__).parents[2] / "data" / "sample_corpus.txt"
SPEC = """\
# Written by `forge-peer demo`.
name: demo
seed: 7
model: {{family: gpt2, layers: 2, hidden_size: 96, heads: 4}}
data:
  path: {corpus}
  sequence_length: 64
  tokenizer: {{kind: bpe, vocab_size: 1024}}
training:
  rounds: {rounds}
  inner_steps: 400      # more than anybody manages:
  time_budget_s: 2.0    # a round takes two seconds on every machine, so that whoever is away has time to come back
  batch_size: 8
  learning_rate: 0.003
  codec: {{kind: topk, k: 128}}
members: {{min: {members}}}
evaluation: {{every: 2, sequences: 32}}
"""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The options of `forge-peer demo`."""

    corpus: Path | None = None
    """Text to train on; the sample corpus if None."""
    num_peers: int = 3
    """Daemons, the late one included."""
    rounds: int | None = None
    """Training rounds."""
    folder: Path | None = None
    """Where everything is put; a temporary folder if None."""
    keep: bool = False
    """Keep blobs and run folders as well."""
    summary: Path | None = None
    """File for the JSON summary."""

    @property
    def wanted_rounds(self) -> int:
        """Rounds that the run shall have."""
        return self.rounds or DEFAULT_ROUNDS

    @property
    def text(self) -> Path:
        """The corpus.

        Raises:
            DemoFailed: there is none.
        """
        path = (self.corpus or SAMPLE).expanduser().absolute()
        if not path.is_file():
            raise DemoFailed(f"{path}: there is no such corpus", "give a text file with --corpus")
        return path

    def spec(self) -> str:
        """The YAML of the run: it starts with all peers but one."""
        corpus = json.dumps(str(self.text))
        return SPEC.format(corpus=corpus, rounds=self.wanted_rounds, members=self.num_peers - 1)


def make_folder(given: Path | None) -> Path:
    """An empty folder for the demo; an earlier demo's is emptied, anybody else's is refused.

    Raises:
        DemoFailed: there is something else in it.
    """
    if given is None:
        folder = Path(tempfile.mkdtemp(prefix="forge-demo-"))
    else:
        folder = given.expanduser().absolute()
        if folder.exists() and any(folder.iterdir()):
            if not (folder / MARK).exists():
                raise DemoFailed(f"{folder}: is not empty and no earlier demo's", "give an empty folder as --home")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("Made by forge-peer demo, which empties this folder when it is given it again.\n")
    return folder
