"""The commands of `forge-peer` about the network and this peer's place in it: network create, network show, id.

IO: the home folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from peer.cli.base import print_facts, print_json, with_home, with_json
from peer.errors import HomeError

DEFAULT_SUPPLY = 1_000_000
MICRO = 1_000_000


@click.group()
def network() -> None:
    """Make a network, or look at the one this peer belongs to."""


@network.command()
@click.option("--name", default="home-network", show_default=True, help="What to call the network.")
@click.option("--supply", default=DEFAULT_SUPPLY, show_default=True, type=click.IntRange(1, 9_000_000_000),
              help="Credits that exist; this peer's account owns them at first.")  # fmt: skip
@with_home
@with_json
def create(name: str, supply: int, home: Path, as_json: bool) -> None:
    """Make a new network whose only witness is this peer."""
    from ledger.genesis import Genesis
    from ledger.keys import PrivateKey
    from peer.identity import Home, NetworkFile

    place = Home(home)
    if place.network_file.exists():
        fix = "give the new network another --home, or look at this one with `forge-peer network show`"
        raise HomeError(f"{place.network_file}: there is a network already", fix)
    with place.lock():
        identity = place.identity()
        if not place.witness_key_file.exists():
            PrivateKey.generate().save(place.witness_key_file)
        witness = PrivateKey.load(place.witness_key_file)
        genesis = Genesis.create(
            name=name, supply=[(identity.account, supply * MICRO)], witnesses=[("witness-1", witness.public)], f=0
        )
        NetworkFile(genesis=genesis).save(place.network_file)
    if as_json:
        print_json({"network": genesis.id, "name": name, "file": str(place.network_file), "account": identity.account})
        return
    click.echo(f"network {name} {genesis.id[:16]} made; its file is {place.network_file}")
    click.echo(f"start this peer:  forge-peer start --home {home}")
    click.echo("every other peer: forge-peer start --home DIR --network FILE --bootstrap ADDRESS")
    click.echo(f"where ADDRESS is told by: forge-peer id --home {home}")


@network.command()
@with_home
@with_json
def show(home: Path, as_json: bool) -> None:
    """Show the network this peer belongs to."""
    from peer.identity import Home

    file = Home(home).network()
    genesis = file.genesis
    facts: dict[str, Any] = {
        "name": genesis.name,
        "id": genesis.id,
        "supply": [list(owner) for owner in genesis.supply],
        "witnesses": [list(witness) for witness in genesis.witnesses],
        "quorum": genesis.quorum,
        "bootstrap": list(file.bootstrap),
    }
    print_json(facts) if as_json else print_facts(facts.items())


@click.command("id")
@with_home
@with_json
def identity(home: Path, as_json: bool) -> None:
    """Show who this peer is, and where it listens if it runs."""
    from peer.cli.client import Client
    from peer.identity import Home

    place = Home(home)
    if not place.account_key_file.exists():
        fix = "forge-peer network create, or forge-peer start --network FILE"
        raise HomeError(f"{home}: no peer lives here yet", fix)
    binding = place.identity().binding
    facts = {"account": binding.account, "peer_id": binding.peer_id, "home": str(home)}
    if place.network_file.exists():
        facts["network"] = place.network().genesis.id
    daemon = Client(home)
    addresses = daemon.get("/status").get("addresses", []) if daemon.is_running() else []
    if as_json:
        print_json({**facts, "addresses": addresses})
    else:
        print_facts([*facts.items(), *[("address", address) for address in addresses or ["(not running)"]]])


COMMANDS = (network, identity)
