"""`forge-ledger export` and `import`, as a user has them.

IO: stores and folders in temporary places.
"""

import json
import re

from click.testing import CliRunner

from ledger.cli.main import main
from ledger.genesis import Genesis

from .cli_kit import call, call_json
from .world import GENESIS, RUN, WITNESS


def test_a_ledger_goes_out_as_a_folder_and_comes_in_as_a_new_home(home, tmp_path):
    call("export", tmp_path / "out", "--home", home)
    output = call("import", tmp_path / "out", "--home", tmp_path / "new").stdout
    assert "2 logs with 13 entries" in output
    assert f"network test {GENESIS.id}: as the archive says" in output
    assert "SOUND" in call("verify", "--home", tmp_path / "new").stdout
    assert call_json("balance", "--home", tmp_path / "new") == call_json("balance", "--home", home)
    network = json.loads((tmp_path / "new" / "network.json").read_text())
    assert network["bootstrap"] == []
    assert Genesis.from_json(network["genesis"]).id == GENESIS.id


def test_an_import_can_be_bound_to_a_network(home, tmp_path):
    call("export", tmp_path / "out", "--home", home)
    body = call_json("import", tmp_path / "out", "--store", tmp_path / "a.db", "--network", home / "network.json")
    assert body == {"store": str(tmp_path / "a.db"), "logs": 2, "entries": 13}
    other = Genesis.create(name="other", supply={}, witnesses=[("witness", WITNESS.public)])
    (tmp_path / "other.json").write_bytes(other.encode())
    error = call("import", tmp_path / "out", "--store", tmp_path / "b.db", "--network", tmp_path / "other.json", code=2)
    assert re.fullmatch("FP-207: .*out: is of network .*\n", error.stderr)
    assert not (tmp_path / "b.db").exists()


def test_an_import_does_not_replace_a_ledger_and_says_what_it_wants(home, tmp_path):
    call("export", tmp_path / "out", "--home", home)
    assert "something already" in call("import", tmp_path / "out", "--home", home, code=2).stderr
    assert "say which ledger" in call("import", tmp_path / "out", code=2).stderr
    assert "FP-216" in call("import", tmp_path / "nothing", "--home", tmp_path / "new", code=2).stderr


def test_an_import_into_a_file_leaves_the_usual_home_alone(home, tmp_path):
    call("export", tmp_path / "out", "--home", home)
    usual = tmp_path / "usual"
    usual.mkdir()
    result = CliRunner().invoke(
        main, ["import", str(tmp_path / "out"), "--store", str(tmp_path / "a.db")], env={"FORGE_HOME": str(usual)}
    )
    assert result.exit_code == 0
    assert list(usual.iterdir()) == []


def test_a_changed_archive_is_refused_with_file_and_entry(home, tmp_path):
    call("export", tmp_path / "out", "--home", home)
    path = tmp_path / "out" / "run" / RUN / "tile" / "entries" / "000.p" / "10"
    path.write_bytes(path.read_bytes().replace(b'"steps":5', b'"steps":4', 1))
    error = call("import", tmp_path / "out", "--home", tmp_path / "new", code=2)
    assert re.fullmatch(rf"FP-216: run/{RUN}/tile/entries/000.p/10: entry 3: leaf hash is .*\n", error.stderr)
    assert call_json("import", tmp_path / "out", "--home", tmp_path / "new", code=2)["error"]["code"] == "FP-216"
