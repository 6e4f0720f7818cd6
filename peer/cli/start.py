"""`forge-peer start`: takes up a network file, configures logging, and becomes the daemon.

IO: the home folder, the process's logging, the daemon.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from peer.cli.base import with_home
from peer.errors import NetworkFileInvalid


def configure_logging(level: str) -> None:
    """Events as `time [level] event key=value` on standard error; the only place where logging is configured."""
    import structlog

    number = getattr(logging, level.upper())
    logging.basicConfig(level=number, stream=sys.stderr, format="%(asctime)s [%(levelname)s] %(name)s: %(message)s")
    os.environ.setdefault("HIVEMIND_LOGLEVEL", level.upper() if number < logging.INFO else "WARNING")
    logging.getLogger("uvicorn").setLevel(max(number, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=20,
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,  # no locals: they hold keys
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


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
@click.option("--memory-gb", type=float, metavar="GB", help="Memory that training may take; 0: what is free.")
@click.option("--upload-mbit", type=float, metavar="MBIT", help="Most Mbit/s to send; 0: no cap.")
@click.option("--download-mbit", type=float, metavar="MBIT", help="Most Mbit/s to fetch; 0: no cap.")
@click.option("--witness-key", type=click.Path(path_type=Path), metavar="FILE",
              help="Be a witness of the network: take this key into the home, once.")  # fmt: skip
@click.option("--name", metavar="TEXT", help="What other peers see as this peer's name.")
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@with_home
def start(home: Path, network_file: Path | None, witness_key: Path | None, quiet: bool, **flags: Any) -> None:
    """Run this peer until Ctrl-C or `forge-peer stop`."""
    if network_file is not None:
        adopt_network(home, network_file)
    from peer.identity import Home

    Home(home).network()  # before the slow imports: a home without a network is told at once
    if witness_key is not None:
        Home(home).take_witness_key(witness_key)
        flags["witness"] = "true"  # a key that the genesis does not name is told, not passed over
    from peer.config import Settings

    settings = Settings.load(home, {name: value for name, value in flags.items() if value not in (None, ())})
    configure_logging("warning" if quiet else settings.log_level)
    # Workers inherit it. Threads that spin while they wait made three peers on two busy cores 10 to 30 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from peer import daemon

    daemon.run(settings, quiet=quiet)


COMMANDS = (start,)
