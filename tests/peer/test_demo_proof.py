"""The forged copy that the demo makes is refused by `forge-ledger verify`, with the forged entry named.

IO: ledger stores in temporary folders, `forge-ledger` as a process.
"""

from pathlib import Path

from ledger.store.store import Store
from peer.demo.peers import run_json
from peer.demo.proof import fault_is_named, tamper
from peer.identity import NetworkFile
from tests.ledger.world import GENESIS, fill


def test_one_changed_byte_of_a_receipt_is_found_and_named(tmp_path: Path) -> None:
    sound, forged, network = tmp_path / "ledger.db", tmp_path / "forged.db", tmp_path / "network.json"
    NetworkFile(genesis=GENESIS).save(network)
    with Store.open(sound, GENESIS, create=True) as store:
        fill(store)
    origin, index = tamper(sound, forged)
    assert "/run/" in origin
    assert run_json("forge-ledger", "verify", "--store", sound, "--network", network)["ok"] is True
    named, words = fault_is_named(forged, network, origin, index)
    assert named, words
    assert f"entry {index}" in words
    assert "receipt" in words
