"""The handshake: two peers tell each other their network, rules and identity before anything else.

Pure: messages and their check.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ledger.genesis import Genesis
from peer.errors import IdentityInvalid, WrongNetwork
from peer.peerkey import Binding
from peer.wire import Account, Hash, Message, Natural, PeerIdText, Signature, Word

HELLO = "hello"


class Hello(Message):
    """Who I am and where I belong."""

    network: Hash
    """Genesis id."""
    name: Word
    """The network's name, for people."""
    rules: Natural
    """Version of the ledger's rules."""
    peer_id: PeerIdText
    account: Account
    account_signature: Signature
    peer_signature: Signature
    addresses: Annotated[list[Word], Field(max_length=16)]
    """Where the peer can be found, for when the connection is gone."""
    time: Natural = 0
    """Unix time in seconds, as the peer takes it to be; 0: not told."""

    @classmethod
    def of(cls, genesis: Genesis, binding: Binding, addresses: list[str], now: float = 0.0) -> Hello:
        """Our own."""
        return cls(
            network=genesis.id,
            name=genesis.name,
            rules=genesis.rules,
            peer_id=binding.peer_id,
            account=binding.account,
            account_signature=binding.account_signature,
            peer_signature=binding.peer_signature,
            addresses=addresses[:16],
            time=max(0, int(now)),
        )


def check_hello(hello: Hello, peer_id: str, genesis: Genesis) -> Hello:
    """The hello, if it comes from a peer of this network and its account is really bound to it.

    Raises:
        WrongNetwork: naming both networks.
        IdentityInvalid: the PeerID is another one, or a signature does not hold.
    """
    if hello.network != genesis.id or hello.rules != genesis.rules:
        theirs = f"network {hello.name!r} ({hello.network[:16]}, rules {hello.rules})"
        ours = f"{genesis.name!r} ({genesis.id[:16]}, rules {genesis.rules})"
        fix = "use the network file of that peer"
        raise WrongNetwork(f"peer {peer_id} belongs to {theirs}, this one to {ours}", fix)
    if hello.peer_id != peer_id:
        raise IdentityInvalid(f"peer {peer_id} says that it is {hello.peer_id}")
    Binding(
        peer_id=hello.peer_id,
        account=hello.account,
        account_signature=hello.account_signature,
        peer_signature=hello.peer_signature,
    ).verify()
    return hello
