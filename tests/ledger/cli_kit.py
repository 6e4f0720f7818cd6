"""`forge-ledger` in the tests' own process, and a home to use it on.

IO: a store and a network file in the folder it is given.
"""

import json
import shutil
import sqlite3

from click.testing import CliRunner

from ledger.cli.main import main
from ledger.entries import Send
from ledger.store.store import Store

from .world import ALICE, ALICE_LOG, BOB, GENESIS, certify, fill


def make_home(folder):
    """A ledger with a run of two rounds, a void send of Alice's and one that is not certified."""
    with Store.open(folder / "ledger.db", GENESIS, create=True) as store:
        fill(store, rounds=2)
        store.append(ALICE_LOG, [*store.claims(ALICE.public), Send(to=BOB.public, amount=10**12)], ALICE)
        certify(store, ALICE_LOG)
        store.append(ALICE_LOG, [Send(to=BOB.public, amount=1)], ALICE)
    network = {"genesis": GENESIS.to_json(), "bootstrap": ["/ip4/127.0.0.1/tcp/1/p2p/x"]}
    (folder / "network.json").write_text(json.dumps(network, indent=2))
    return folder


def call(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], env={"FORGE_HOME": None})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def call_json(*arguments, code=0):
    return json.loads(call(*arguments, "--json", code=code).stdout)


def tampered(home, tmp_path):
    copy = shutil.copytree(home, tmp_path / "copy")
    connection = sqlite3.connect(copy / "ledger.db")
    changed = "CAST(replace(CAST(data AS TEXT), '\"steps\":5', '\"steps\":4') AS BLOB)"
    connection.execute(f"UPDATE entry SET data = {changed} WHERE idx = 3")
    connection.commit()
    connection.close()
    return copy
