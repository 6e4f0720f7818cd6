"""Who joined: PeerIDs bound to accounts by adverts."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from peer.errors import ForgeError
from peer.messages import Join
from peer.runs.joined import Joined
from tests.peer.memory_net import Air, MemoryNetwork, advert_of, new_identity

RUN = "ab" * 32
GENESIS = Genesis.create(name="joined", supply=[], witnesses=[("w", PrivateKey.generate().public)])


def somebody(key: PrivateKey | None = None) -> MemoryNetwork:
    return MemoryNetwork(Air(), new_identity(key), GENESIS)


def join(advert: str) -> dict[str, Any]:
    return Join(run=RUN, advert=advert).body()


def test_who_joined_is_known_by_its_account() -> None:
    joined, bob, carol = Joined(RUN), somebody(), somebody()
    for one in (bob, carol):
        joined.join(one.peer_id, join(advert_of(one)))
    assert joined.account_of(bob.peer_id) == bob.identity.account
    assert joined.peer_of(carol.identity.account) == carol.peer_id
    assert joined.peers({bob.identity.account}) == [bob.peer_id]
    assert joined.peer_of("cd" * 32) is None


def test_an_account_that_joins_from_a_new_peer_is_found_there() -> None:
    key, joined = PrivateKey.generate(), Joined(RUN)
    old, new = somebody(key), somebody(key)
    for one in (old, new):
        joined.join(one.peer_id, join(advert_of(one)))
    assert joined.peer_of(key.public) == new.peer_id


def test_strangers_and_false_adverts_are_refused() -> None:
    joined, bob, mallory = Joined(RUN), somebody(), somebody()
    good = advert_of(bob)
    for caller, advert, code in (
        (mallory.peer_id, good, "FP-422"),
        (bob.peer_id, good.replace(bob.identity.account, mallory.identity.account), "FP-312"),
        (bob.peer_id, "{}", "FP-312"),
        (bob.peer_id, "x" * 20000, "FP-307"),
    ):
        with pytest.raises(ForgeError) as refused:
            joined.join(caller, join_any(advert))
        assert refused.value.code == code
    with pytest.raises(ForgeError) as refused:
        joined.account_of(bob.peer_id)
    assert refused.value.code == "FP-420"


def join_any(advert: str) -> dict[str, Any]:
    return {"run": RUN, "advert": advert}
