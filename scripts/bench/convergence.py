"""Does training with few bytes reach the loss of training with all of them?

Four members of one run in this process (`members.py`) train a small GPT-2 on bytes of text, 2,000 AdamW steps each, by
every codec, k, inner steps and outer rate worth a look, and by unequal speeds. Each is compared with synchronous data
parallelism on the same tokens in the same order, whose step by the gradient of all four batches is computed as one
batch. In all rows the learning rate rises over the same tokens, and falls along a cosine over the same.

`default_over_ddp` is the held-out loss of what the package does by default over that of synchronous data parallelism:
the mean over the seeds, each side with the best learning rate of those tried on the first seed.

IO: reads the corpus; writes each row into the result file as soon as it is done, and does not compute it again.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import members
import torch
from convergence_rows import DDP, DEFAULT, FULL, QUICK, Row, Size, best, spec_of
from harness import Options, Result, say

from p2p_llm_forge.blobs import blob_id, encode_json
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.errors import EngineError
from peer.errors import ConfigError

CORPUS = Path(__file__).parents[2] / "data" / "sample_corpus.txt"
NAME = "convergence"
TARGETS = {"default_over_ddp": ("<=", 1.02)}


class Table:
    """The rows that are done; each is in the file at once."""

    def __init__(self, path: Path | None, corpus: Path, size: Size) -> None:
        """Take up what the file holds.

        Raises:
            ConfigError: the file is none of ours, or the corpus cannot be read.
        """
        self.size, self._path, self._corpus = size, path, corpus
        self.rows: list[dict[str, Any]] = []
        try:
            self._text = blob_id(corpus.read_bytes())
            held = json.loads(path.read_text("utf-8"))["metrics"]["rows"] if path is not None and path.exists() else []
            self._held: dict[str, dict[str, Any]] = {row["key"]: row for row in held}
        except OSError as exc:
            raise ConfigError(f"{exc.filename}: {exc.strerror}", "name a text file that can be read") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigError(f"{path}: holds no rows of {NAME}", "name a new file, or remove this one") from exc

    def row(self, row: Row, seed: int) -> dict[str, Any]:
        """This row with this seed, computed if it is not in the file.

        Raises:
            ConfigError: the corpus cannot be trained on.
        """
        spec = spec_of(row, seed, self._corpus, self.size)
        told = {"config": spec.canonical(), "text": self._text, "shares": [str(part) for part in row.shares]}
        key = blob_id(encode_json({**told, "by_tokens": int(row.by_tokens), "looks": self.size.looks}))[:16]
        found = self._held.get(key)
        if found is None:
            say(f"{row.name}, seed {seed} …")
            found = self._compute(row, spec)
        found = {**found, "name": row.name, "about": row.about, "seed": seed, "key": key}
        self.rows.append(found)
        self._held[key] = found
        self._save()
        return found

    def _compute(self, row: Row, spec: RunSpec) -> dict[str, Any]:
        began = time.process_time()
        with tempfile.TemporaryDirectory(prefix="forge-bench-") as folder:
            try:
                swarm = members.Swarm(spec, Path(folder), shares=row.shares, by_tokens=row.by_tokens)
            except EngineError as exc:
                raise ConfigError(exc.message, "give another --corpus") from exc
            track = members.follow(
                swarm, looks=self.size.looks, sequences=self.size.sequences,
                told=lambda number, loss: say(f"  round {number} of {spec.training.rounds}: {loss:.4f}"),
            )  # fmt: skip
        sent = 4 * swarm.layout.parameters * self.size.steps * row.parts if row.parts > 1 else track.sent_bytes
        return {
            "loss": round(track.losses[-1], 5),
            "tokens": track.tokens,
            "bytes_per_token": round(sent / track.tokens, 4),
            "curve_tokens": track.looked,
            "curve": [round(loss, 5) for loss in track.losses],
            "parameters": swarm.layout.parameters,
            "cpu_s": round(time.process_time() - began, 1),
            "settings": {
                "learning_rate": spec.training.learning_rate,
                "inner_steps": spec.training.inner_steps,
                "codec": spec.training.codec.model_dump(),
                "outer": spec.training.outer.model_dump(),
            },
        }

    def _save(self) -> None:
        if self._path is not None:
            done = {row["key"] for row in self.rows}
            rest = [row for key, row in self._held.items() if key not in done]
            harness.write(self._path, Result(name=NAME, metrics={"rows": self.rows + rest}, targets=TARGETS))


def measure(options: Options) -> Result:
    """All rows."""
    torch.set_num_threads(1)
    size = QUICK if options.quick else FULL
    table = Table(options.json, Path(options.more["corpus"] or CORPUS), size)
    for row in size.rows:
        table.row(row, 1)
    chosen = {best(table.rows, about)[0]["name"] for about in (DDP, DEFAULT)}
    for row in [row for row in size.rows if row.every_seed or row.name in chosen]:
        for seed in range(2, size.seeds + 1):
            table.row(row, seed)
    return Result(name=NAME, metrics={**summary(table.rows), "rows": table.rows}, targets=TARGETS)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the finished rows."""
    ddp, default = best(rows, DDP), best(rows, DEFAULT)
    seeds = sorted({row["seed"] for row in default} & {row["seed"] for row in ddp})
    losses = {kind: {row["seed"]: row["loss"] for row in of} for kind, of in (("ddp", ddp), ("default", default))}
    ratios = [round(losses["default"][seed] / losses["ddp"][seed], 5) for seed in seeds]
    return {
        "default_over_ddp": round(sum(ratios) / len(ratios), 5),
        "ratios": ratios,
        "ddp_loss": round(sum(losses["ddp"].values()) / len(ddp), 5),
        "default_loss": round(sum(losses["default"].values()) / len(default), 5),
        "default_bytes_per_token": default[0]["bytes_per_token"],
        "ddp_bytes_per_token": ddp[0]["bytes_per_token"],
    }


def draw(result: Result, path: Path) -> None:
    """Loss against tokens, and final loss against bytes a token."""
    rows = [row for row in result.metrics["rows"] if row["seed"] == 1]
    shades = dict(zip([row["name"] for row in rows], harness.colours(len(rows)), strict=True))
    with harness.new_figure(path, title="convergence", height=5.0, width=14.0, columns=2) as (left, right):
        for row in rows:
            left.plot(row["curve_tokens"], row["curve"], label=row["name"], color=shades[row["name"]])
            right.scatter(row["bytes_per_token"], row["loss"], color=shades[row["name"]])
            right.annotate(row["name"], (row["bytes_per_token"], row["loss"]), fontsize=6)
        left.set(xlabel="tokens of all members", ylabel="held-out loss, nats")
        left.legend(fontsize=6, ncols=2)
        right.set(xlabel="bytes that are sent a token", ylabel="held-out loss in the end, nats", xscale="log")


if __name__ == "__main__":
    corpus = {"corpus": "train on this text; the repository's sample corpus when left out"}
    sys.exit(harness.main(NAME, (__doc__ or "").split("\n")[0], measure, draw, more=corpus))
