"""Four witness daemons, three of whom must sign: one may be killed, paused or absent; with two gone everything waits.

IO: real daemons and p2pd.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.store.store import Store
from peer.demo.peers import DemoPeer, run, run_json, yard
from peer.demo.story import wait_until
from peer.identity import Home
from tests.e2e.quorum_kit import PATIENCE_S, Net, append, asked, four_witnesses, nothing_to_measure, writer
from tests.peer.memory_net import until

pytestmark = pytest.mark.e2e

SPEC = """
name: tiny
model: {{family: gpt2, layers: 1, hidden_size: 32, heads: 2}}
data: {{path: {corpus}, sequence_length: 32, tokenizer: {{kind: bytes}}}}
training: {{rounds: 3, inner_steps: 2, batch_size: 2, codec: {{kind: f32}}}}
members: {{min: 1, max: 1}}
credits: {{price: 1000000}}
evaluation: {{every: 3, sequences: 4}}
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with four_witnesses(tmp_path_factory.mktemp("quorum")) as net:
        yield net


async def test_entries_are_certified_while_one_witness_is_killed_absent_or_paused(net: Net, tmp_path: Path) -> None:
    async with writer(net, Home(tmp_path / "writer")) as peer:
        await append(peer)
        net.gone(4)
        await append(peer, 3)
        async with writer(net, Home(tmp_path / "newcomer")) as newcomer:  # it never saw witness 4
            await append(newcomer)
        net.gone()
        with net.paused(3):
            await append(peer, 5)
            assert await peer.logs.size(peer.logs.origin) == 9


async def test_with_two_gone_nothing_is_certified_and_all_goes_on_when_one_is_back(net: Net, tmp_path: Path) -> None:
    net.gone()
    async with writer(net, Home(tmp_path / "writer")) as peer:
        await append(peer)
        net.gone(2, 4)
        waiting = asyncio.create_task(append(peer))
        await until(lambda: (ask := asked(peer)) and set(ask.problems) == {"witness-2", "witness-4"}, PATIENCE_S)
        assert not waiting.done()
        assert await peer.logs.size(peer.logs.origin) == 1
        shown = run_json("forge-peer", "network", "show", "--home", net.peers[0].home)
        assert [bool(entry["problem"]) for entry in shown["reached"]] == [False, True, False, True]
        net.gone(2)
        await waiting


async def test_a_home_restored_from_an_old_backup_signs_nothing_until_it_is_recovered(net: Net, tmp_path: Path) -> None:
    net.gone(2)
    home, backup = Home(tmp_path / "writer"), tmp_path / "backup.db"
    async with writer(net, home) as peer:
        await append(peer)
        account = peer.logs.origin
    shutil.copy(home.ledger_file, backup)
    async with writer(net, home) as peer:
        await append(peer, 2)
    shutil.copy(backup, home.ledger_file)
    restored = DemoPeer(number=6, home=home.path)
    join = ("--bootstrap", net.peers[0].address)
    with yard([restored]):
        restored.start(*join, "--device", "cpu", "--threads", "1")
        restored.wait_ready()
        assert wait_until(lambda: restored.client.get("/status")["not_written"], PATIENCE_S)
        (line,) = [line for line in restored.log.read_text().splitlines() if "own_log_not_written" in line]
        assert "FP-215" in line
        assert f"forge-ledger recover --home {home.path}" in line
        (told,) = restored.client.get("/status")["not_written"]
        assert told.startswith(account)
    run("forge-ledger", "recover", "--home", home.path, *join)
    async with writer(net, home) as peer:
        await append(peer)
        assert await peer.logs.size(account) == 4
        assert peer.logs.forks == {}


def sizes(home: Path, net: Net) -> dict[str, int]:
    """How far each log is certified, in the store of a running daemon."""
    with contextlib.closing(Store.open(Home(home).ledger_file, net.genesis, read_only=True)) as store:
        return {origin: known.size for origin in store.origins() if (known := store.certified(origin)) is not None}


def test_a_run_goes_on_without_a_witness_and_a_late_peer_sees_and_verifies_all(net: Net, tmp_path: Path) -> None:
    first = net.peers[0]
    (tmp_path / "corpus.txt").write_text("\n".join(f"In the year {year} nothing much happened." for year in range(600)))
    (tmp_path / "run.yaml").write_text(SPEC.format(corpus=json.dumps(str(tmp_path / "corpus.txt"))))
    net.gone(2)
    run("forge-peer", "submit", tmp_path / "run.yaml", "--home", first.home)
    assert wait_until(lambda: [job["phase"] for job in first.client.get("/jobs")] == ["closed"], PATIENCE_S)
    late = DemoPeer(number=5, home=tmp_path / "late")
    late.home.mkdir()
    nothing_to_measure(late.home)
    with yard([late]):
        late.start("--network", net.file, "--bootstrap", first.address, "--device", "cpu", "--threads", "1")
        late.wait_ready()
        assert wait_until(lambda: sizes(late.home, net).items() >= sizes(first.home, net).items(), PATIENCE_S)
    report = run_json("forge-ledger", "verify", "--home", late.home)
    assert report["ok"] is True
    assert len(sizes(late.home, net)) >= 2
