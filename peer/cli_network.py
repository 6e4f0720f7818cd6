"""The commands of `forge-peer` about the network and this peer's place in it: network create, network show, id, start.

IO: the home folder, and the daemon that `start` becomes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from peer.cli_base import print_facts, print_json, with_home, with_json
from peer.errors import HomeError, NetworkFileInvalid

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
    from peer.client import Client
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


def adopt_network(home: Path, file: Path) -> None:
    """Makes a network file this home's own.

    Raises:
        NetworkFileInvalid: the file cannot be used, or the home belongs to another network.
    """
    from peer.identity import Home, NetworkFile

    place, offered = Home(home), NetworkFile.load(file)
    if place.network_file.exists():
        own = place.network()
        if own.genesis.id != offered.genesis.id:
            raise NetworkFileInvalid(
                f"{file}: network {offered.genesis.name} {offered.genesis.id[:16]}, but {home} belongs to "
                f"{own.genesis.name} {own.genesis.id[:16]}",
                "use another --home for another network",
            )
        return
    with place.lock():
        offered.save(place.network_file)


@click.command()
@click.option("--network", "network_file", type=click.Path(path_type=Path), metavar="FILE", help="Join this network.")
@click.option("--bootstrap", "--peer", "bootstrap", multiple=True, metavar="ADDR",
              help="Address of a peer to join through; may be repeated.")  # fmt: skip
@click.option("--listen", multiple=True, metavar="MADDR", help="Where to listen, such as /ip4/0.0.0.0/tcp/4001.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads for training.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="What to train on.")
@click.option("--name", metavar="TEXT", help="What other peers see as this peer's name.")
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@with_home
def start(home: Path, network_file: Path | None, quiet: bool, **flags: Any) -> None:
    """Run this peer until Ctrl-C or `forge-peer stop`."""
    if network_file is not None:
        adopt_network(home, network_file)
    from peer.identity import Home

    Home(home).network()  # before the slow imports: a home without a network is told at once
    from peer import daemon
    from peer.config import Settings

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    daemon.run(Settings.load(home, given), quiet=quiet)


COMMANDS = (network, identity, start)
