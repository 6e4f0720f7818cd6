"""Models taken out of real runs: proven to a stranger, loaded by transformers, and of any round.

IO: starts worker processes; home folders under a test's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ledger.cli.main import main
from ledger.exported.check import check_folder
from tests.p2p_llm_forge.conftest import corpus_text, spec_fields
from tests.peer.daemons import Peer, World, finish
from tests.peer.memory_net import until

ROUNDS = 5
PATIENCE_S = 300.0


async def submit(peer: Peer, folder: Path, checkpoints: dict[str, int], **training: Any) -> str:
    """A run of the real engine; returns its id."""
    corpus = folder / "corpus.txt"
    corpus.write_text(corpus_text(600))
    fields = spec_fields(corpus, rounds=ROUNDS, inner_steps=1, batch_size=2, **training)
    fields["checkpoints"] = checkpoints
    async for event in peer.daemon.node.submit(fields):
        if event["event"] == "submitted":
            return str(event["run"])
    raise AssertionError("nothing was submitted")


async def whole(run: str, *peers: Peer) -> None:
    """The run is over, which may take a busy machine a while."""
    await until(lambda: all(peer.events(run, "claimed") for peer in peers), PATIENCE_S)
    await finish(run, *peers)


def check(folder: Path, peer: Peer) -> Result:
    """`forge-ledger check` of an exported model, by somebody who has the network file."""
    return CliRunner().invoke(main, ["check", str(folder), "--network", str(peer.home.network_file)])


async def test_a_model_of_every_round_is_proven_offline_and_what_is_not_kept_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World(tmp_path, monkeypatch, fake=False) as world:
        monkeypatch.setattr("peer.daemon.MEASURE_AFTER_S", 600.0)
        alice, bob = await world.peer("alice"), await world.peer("bob")
        run = await submit(
            alice, tmp_path, {"keep_last": 1, "every": 2}, codec={"kind": "f32"}, outer={"kind": "nesterov"}
        )
        await whole(run, alice, bob)
        log = bob.run(run).log
        bob.daemon.blobs.discard(log.state_after(3))
        bob.daemon.blobs.discard(log.settled[2].receipts[0].update)
        states = {}
        for number in (0, 3, ROUNDS):
            folder = tmp_path / f"model-{number}"
            told = await bob.daemon.node.export(run, str(folder), number)
            assert (told["unproven"], told["state"]) == ("", log.state_after(number))
            found = check_folder(folder, world.genesis)
            assert (found.card.round, found.card.account) == (number, bob.account)
            states[number] = found.card.state
        assert len(set(states.values())) == 3
        card = json.loads((tmp_path / f"model-{ROUNDS}" / "provenance" / "card.json").read_bytes())
        assert card["tokens"] == log.tokens == sum(tokens for _, tokens in card["members"])
        assert list((tmp_path / "bob" / "runs" / run).glob(".past-*")) == []
    for number in states:
        answer = check(tmp_path / f"model-{number}", bob)
        assert (answer.exit_code, answer.output[:7]) == (0, "PROVEN\n"), answer.output
    loads(tmp_path / f"model-{ROUNDS}")


def loads(folder: Path) -> None:
    """The folder is a model for transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder, local_files_only=True)("The miller", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.generate(**tokens, max_new_tokens=3).shape[1] > 3
