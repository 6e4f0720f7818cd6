"""What programs rely on: the keys of every command's JSON.

IO: a store in a temporary folder.
"""

import pytest

from .cli_kit import call_json
from .world import ALICE, GENESIS, RUN

KEYS = {
    "verify": {
        "ok", "network", "faults", "logs", "counts", "balances", "issued", "burned", "unclaimed", "proven",
        "not_proven",
    },
    "show": {
        "id", "name", "rules", "supply", "witnesses", "f", "issuers", "logs", "runs", "issued", "burned", "unclaimed",
        "accused",
    },
    "runs": {"unit", "runs"},
    f"log run/{RUN}": {"origin", "certified", "entries"},
    "balance": {"unit", "accounts"},
    f"history {ALICE.public}": {"unit", "owner", "lines"},
    f"why run/{RUN}:3": {
        "unit", "origin", "index", "status", "settled_at", "fate", "entry", "before", "did", "after",
    },
    f"prove run/{RUN}:3": {"origin", "index", "proof"},
    "evidence": {"evidence"},
}  # fmt: skip
LINE = {"origin", "index", "kind", "owner", "delta", "amount", "note", "causes", "balance"}


@pytest.mark.parametrize("command", KEYS)
def test_the_keys_that_programs_rely_on_are_there(home, command):
    body = call_json(*command.split(), "--home", home)
    assert body.keys() >= KEYS[command]


def test_the_keys_of_what_lies_within(home):
    assert call_json("history", ALICE.public, "--home", home)["lines"][0].keys() == LINE
    assert call_json("log", f"run/{RUN}", "--home", home)["entries"][0].keys() == {"index", "status", "leaf", "entry"}
    assert call_json("show", "--home", home)["logs"][0].keys() == {"origin", "entries", "certified"}
    assert call_json("balance", "--home", home)["accounts"][ALICE.public].keys() == {"balance", "claimable"}
    run = call_json("runs", "--home", home)["runs"][RUN]
    assert run.keys() >= {"name", "rounds_settled", "paid", "balance", "closed"}


def test_the_keys_of_check_export_import_and_keygen(home, tmp_path):
    (tmp_path / "p").write_text(call_json("prove", f"run/{RUN}:3", "--home", home)["proof"])
    assert call_json("check", tmp_path / "p", "--network", home / "network.json").keys() == {
        "ok", "entry", "leaf", "index", "origin", "owner", "size", "root", "writer", "witnessed", "run", "not_proven",
    }  # fmt: skip
    assert call_json("export", tmp_path / "out", "--home", home).keys() == {"folder", "logs", "entries", "files"}
    assert call_json("import", tmp_path / "out", "--home", tmp_path / "new").keys() == {"store", "logs", "entries"}
    assert call_json("keygen", tmp_path / "key").keys() == {"file", "public"}
    error = call_json("show", "--home", tmp_path / "nowhere", code=2)
    assert error["error"].keys() == {"code", "message"}
    assert GENESIS.id not in str(error)
