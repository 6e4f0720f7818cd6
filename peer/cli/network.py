"""The commands of `forge-peer` about the network and this peer's place in it: network create, network show, id.

IO: the home folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peer.cli.base import print_facts, print_json, with_home, with_json
from peer.errors import HomeError

if TYPE_CHECKING:
    from ledger.genesis import Genesis

DEFAULT_SUPPLY = 1_000_000
MICRO = 1_000_000


@click.group()
def network() -> None:
    """Make a network, or look at the one this peer belongs to."""


def _named_keys(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """NAME=PUBLICKEY, repeated."""
    pairs = []
    for value in values:
        name, equals, public = value.partition("=")
        if not (name and equals and public):
            raise click.BadParameter(f"{value!r} is not NAME=PUBLICKEY; forge-ledger keygen tells the public key")
        pairs.append((name, public))
    return pairs


@network.command()
@click.option("--name", default="home-network", show_default=True, help="What to call the network.")
@click.option("--supply", default=DEFAULT_SUPPLY, show_default=True, type=click.IntRange(1, 9_000_000_000),
              help="Credits that exist; this peer's account owns them at first.")  # fmt: skip
@click.option("--witnesses", "count", type=click.IntRange(1, 64), metavar="N",
              help="How many witnesses: this peer and N-1 others, whose keys are made here.  [default: 1]")  # fmt: skip
@click.option("--witness", "named", multiple=True, metavar="NAME=PUBLICKEY", callback=_named_keys,
              help="A witness whose key was made on its own machine; may be repeated, counts among N.")  # fmt: skip
@with_home
@with_json
def create(
    name: str, supply: int, count: int | None, named: list[tuple[str, str]], home: Path, as_json: bool
) -> None:
    """Make a new network; this peer is its first witness."""
    from ledger.genesis import Genesis
    from peer.identity import Home, NetworkFile

    place = Home(home)
    if place.network_file.exists():
        fix = "give the new network another --home, or look at this one with `forge-peer network show`"
        raise HomeError(f"{place.network_file}: there is a network already", fix)
    total = count or 1 + len(named)
    if total < 1 + len(named):
        raise click.UsageError(f"--witnesses {total}: this peer and {len(named)} named ones are {1 + len(named)}")
    with place.lock():
        identity = place.identity()
        keys = [("witness-1", make_key(place.witness_key_file)), *named]
        files = {number: place.witness_keys / f"w{number}.key" for number in range(len(keys) + 1, total + 1)}
        keys += [(f"witness-{number}", make_key(file)) for number, file in files.items()]
        for file in files.values():
            file.chmod(0o400)
        genesis = Genesis.create(name=name, supply=[(identity.account, supply * MICRO)], witnesses=keys)
        NetworkFile(genesis=genesis).save(place.network_file)
    if as_json:
        print_json({
            "network": genesis.id, "name": name, "file": str(place.network_file), "account": identity.account,
            "witnesses": [list(key) for key in keys], "f": genesis.f, "quorum": genesis.quorum,
            "witness_keys": [str(file) for file in files.values()],
        })  # fmt: skip
        return
    click.echo(f"network {name} {genesis.id[:16]} made; its file is {place.network_file}")
    click.echo(f"start this peer:  forge-peer start --home {home}")
    click.echo("every other peer: forge-peer start --home DIR --network FILE --bootstrap ADDRESS")
    click.echo(f"where ADDRESS is told by: forge-peer id --home {home}")
    if total > 1:
        tell_witnesses(genesis, files, place.network_file)


def make_key(file: Path) -> str:
    """Makes a witness's key unless an interrupted attempt did; returns the public key."""
    from ledger.keys import PrivateKey
    from peer.files import make_folder

    if not file.exists():
        make_folder(file.parent)
        PrivateKey.generate().save(file)
    return PrivateKey.load(file).public


def tell_witnesses(genesis: Genesis, files: dict[int, Path], network_file: Path) -> None:
    """How many must sign, and which file goes to which machine."""
    n, quorum = len(genesis.witnesses), genesis.quorum
    click.echo("")
    click.echo(f"{n} witnesses: {quorum} must sign, so {n - quorum} may be away; up to {genesis.f} may lie")
    if n != 3 * genesis.f + 1:
        click.echo(
            f"{3 * genesis.f + 1} witnesses withstand as many liars with a smaller quorum, "
            f"{3 * genesis.f + 4} withstand {genesis.f + 1}"
        )
    for number, (name, public) in list(enumerate(genesis.witnesses, 1))[1:]:
        file = files.get(number)
        made = f"copy {file} and {network_file} to its machine" if file else f"copy {network_file} to its machine"
        key = file.name if file else f"KEYFILE  (its public key is {public[:16]}…)"
        click.echo(f"{name}: {made}; there:")
        click.echo(f"  forge-peer start --home DIR --network network.json --bootstrap ADDRESS --witness-key {key}")
    if files:
        click.echo("Then delete the key files here: whoever has one can sign as that witness.")


@network.command()
@with_home
@with_json
def show(home: Path, as_json: bool) -> None:
    """Show the network this peer belongs to; if it runs, which witnesses it reaches."""
    from peer.cli.client import Client
    from peer.identity import Home

    file = Home(home).network()
    genesis = file.genesis
    facts: dict[str, Any] = {
        "name": genesis.name,
        "id": genesis.id,
        "supply": [list(owner) for owner in genesis.supply],
        "witnesses": [list(witness) for witness in genesis.witnesses],
        "f": genesis.f,
        "quorum": genesis.quorum,
        "bootstrap": list(file.bootstrap),
    }
    daemon = Client(home)
    reached = daemon.get("/witnesses") if daemon.is_running() else []
    if as_json:
        print_json({**facts, "reached": reached})
        return
    facts["quorum"] = f"{genesis.quorum} of {len(genesis.witnesses)} must sign; up to {genesis.f} may lie"
    told = {entry["name"]: entry["problem"] or "reached" for entry in reached}
    print_facts([
        *((name, value) for name, value in facts.items() if name not in ("witnesses", "f")),
        *((f"witness {name}", f"{public}  {told.get(name, '')}".rstrip()) for name, public in genesis.witnesses),
    ])  # fmt: skip


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
