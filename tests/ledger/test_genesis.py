"""The genesis and the network file."""

import json

import pytest

from ledger import notes
from ledger.errors import GenesisInvalid
from ledger.genesis import Genesis, parse_network
from ledger.notes import Checkpoint

from .test_keys import MIXED_ORDER
from .world import ALICE, ALICE_LOG, BOB, GENESIS, NOW, RUN, RUN_LOG, WITNESS, key_of


def test_a_genesis_survives_its_bytes_and_its_network_file():
    assert Genesis.parse(GENESIS.encode()) == GENESIS
    file = json.dumps({"genesis": GENESIS.to_json(), "bootstrap": ["/ip4/1.2.3.4/tcp/5/p2p/x"]}, indent=2).encode()
    assert parse_network(file) == (GENESIS, ("/ip4/1.2.3.4/tcp/5/p2p/x",))
    assert parse_network(GENESIS.encode()) == (GENESIS, ())


def test_origins_certify_network_and_owner():
    assert f"p2p-llm-forge/{GENESIS.id[:16]}/{ALICE.public}" == ALICE_LOG
    assert f"p2p-llm-forge/{GENESIS.id[:16]}/run/{RUN}" == RUN_LOG


@pytest.mark.parametrize(
    ("n", "f", "quorum"), [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 1, 3), (5, 1, 4), (7, 2, 5), (10, 3, 7)]
)
def test_two_quorums_always_share_a_sound_witness(n, f, quorum):
    witnesses = [(f"w{number}", key_of(f"w{number}").public) for number in range(n)]
    genesis = Genesis.create(name="n", witnesses=witnesses)
    assert (genesis.f, genesis.quorum) == (f, quorum)
    assert 2 * quorum - n > f
    assert quorum <= n - f  # and the sound ones alone are a quorum


def test_only_this_networks_witnesses_count():
    head = notes.sign_head(Checkpoint(origin=ALICE_LOG, size=1, root=bytes(32)), ALICE)
    stranger = notes.cosign(head, "witness", BOB, NOW)
    mine = notes.cosign(head, "witness", WITNESS, NOW)
    assert GENESIS.cosigners(notes.parse(notes.combine(head, [stranger]))) == []
    assert GENESIS.cosigners(notes.parse(notes.combine(head, [stranger, mine]))) == ["witness"]


@pytest.mark.parametrize("changes", [
    {"rules": 2}, {"rules": True}, {"name": ""}, {"name": "x" * 81}, {"name": 5}, {"name": "\ud800"}, {"f": 1},
    {"f": -1},
    {"f": True}, {"witnesses": []}, {"witnesses": [["a b", WITNESS.public]]}, {"witnesses": [["a", "x"]]},
    {"witnesses": [["a", MIXED_ORDER]]}, {"witnesses": [["a", WITNESS.public], ["b", WITNESS.public]]},
    {"witnesses": [["a", WITNESS.public], ["a", BOB.public]]}, {"witnesses": [["a", ALICE.public]]}, {"witnesses": 5},
    {"supply": {}}, {"supply": [[ALICE.public]]}, {"supply": [[ALICE.public, 0]]}, {"supply": [[ALICE.public, 1.5]]},
    {"supply": [[ALICE.public, True]]}, {"supply": [[ALICE.public, 1], [ALICE.public, 1]]}, {"supply": [[5, 1]]},
    {"supply": [["01" + "0" * 62, 1]]}, {"supply": [[ALICE.public, 2**53 - 1], [BOB.public, 1]]},
    {"issuers": [["x", 1]]},
])  # fmt: skip
def test_what_defines_no_network_is_refused(changes):
    with pytest.raises(GenesisInvalid):
        Genesis.from_json({**GENESIS.to_json(), **changes})


@pytest.mark.parametrize("data", [
    b"", b"[]", b"{}", b"\xff", b'{"genesis":{}}', b'{"genesis":1}', b'{"a":1,"a":1}', b"[" * 100000,
    b" " * (1 << 20) + b"{}",
    json.dumps({"genesis": GENESIS.to_json(), "bootstrap": "x"}).encode(),
    json.dumps({"genesis": GENESIS.to_json(), "bootstrap": [1]}).encode(),
    json.dumps({"genesis": {**GENESIS.to_json(), "more": 1}}).encode(),
])  # fmt: skip
def test_what_is_no_network_file_is_refused_with_its_place(data):
    with pytest.raises(GenesisInvalid, match=r"^FP-207: net\.json: "):
        parse_network(data, "net.json")


@pytest.mark.parametrize("data", [GENESIS.encode() + b" ", GENESIS.encode()[:-1], b"x"])
def test_a_genesis_not_in_canonical_form_is_refused(data):
    with pytest.raises(GenesisInvalid):
        Genesis.parse(data)
