"""What `check` tells of an exported model: what is proven, by what, and what is not.

IO: reads a folder, writes to the terminal.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .base import print_json

if TYPE_CHECKING:
    from ledger.exported.check import Exported
    from ledger.genesis import Genesis


def check_exported(folder: Path, genesis: "Genesis", *, as_json: bool) -> None:
    """Check the folder and tell what it proves.

    Raises:
        LedgerError: it proves nothing.
    """
    from ledger.exported.check import check_folder

    found = check_folder(folder, genesis)
    if as_json:
        print_json(_to_json(found))
    else:
        _print(found, genesis)


def _to_json(found: "Exported") -> dict[str, Any]:
    proven = found.proven
    return {
        "ok": True, "card": {**asdict(found.card), "files": dict(found.card.files)}, "weights": found.weights,
        "parameters": found.parameters, "tokenizer": found.tokenizer, "origin": proven.origin, "index": proven.index,
        "size": proven.size, "root": proven.root, "writer": proven.writer,
        "witnessed": [{"witness": name, "time_s": time_s} for name, time_s in proven.witnessed],
        "not_proven": list(_not_proven(found)),
    }  # fmt: skip


def _print(found: "Exported", genesis: "Genesis") -> None:
    from ledger.describe import moment
    from ledger.errors import one_line

    card, proven = found.card, found.proven
    click.secho("PROVEN", fg="green", bold=True)
    facts = [
        ("network", f"{genesis.name} {genesis.id}"),
        ("run", f"{card.name!r} {card.run}, the hash of its spec"),
        ("state", f"{card.state} after round {card.round}"),
        ("entry", f"{proven.index} among the first {proven.size} of {proven.origin}, leaf hash {proven.leaf}"),
        ("signed by", f"{proven.writer}, who may write this log"),
        (
            "certified",
            f"by {len(proven.witnessed)} of {len(genesis.witnesses)} witnesses, {genesis.quorum} are wanted:",
        ),
        *(("", f"{name} at {moment(time_s)}") for name, time_s in proven.witnessed),
        ("weights", f"{', '.join(found.weights)}: {found.parameters:,}, bit by bit those of this state"),
        ("model", "config.json is what the run's spec names"),
        ("tokenizer", f"{', '.join(found.tokenizer)}: what the run's spec names"),
        ("card", f"as {card.account} signed it"),
    ]
    for title, text in facts:
        click.echo(f"{title:<12} {one_line(text)}".rstrip())
    title = "not proven:"
    for sentence in _not_proven(found):
        click.echo(f"{title:<12} {sentence}")
        title = ""


def _not_proven(found: "Exported") -> tuple[str, ...]:
    return (
        f"what the card says of tokens, members and losses, and {', '.join(found.said) or 'nothing else'}: "
        f"that is the word of {found.card.account}; the run's log has it",
        "that the state came of honest work: forge-ledger verify --replay applies the updates again",
        "that the run has no newer state, and which class of transformers config.json's architectures should name",
        "that the times are right: each is what the witness's own clock said",
    )
