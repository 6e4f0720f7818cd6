"""Networks of several witnesses: which keys are made, what is told, who may start as a witness."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ledger.keys import PrivateKey
from peer.cli.main import forge_peer
from peer.config import Settings
from peer.daemon import run
from peer.errors import ConfigError, ForgeError, KeyDamaged
from peer.identity import Home

Create = Callable[..., Result]


@pytest.fixture
def create(tmp_path: Path) -> Create:
    """Runs `network create`."""
    return lambda *words: CliRunner().invoke(
        forge_peer, ["network", "create", "--home", str(tmp_path / "a"), *map(str, words)]
    )


def test_four_witnesses_are_this_peer_and_three_key_files(create: Create, tmp_path: Path) -> None:
    made = json.loads(create("--witnesses", 4, "--json").output)
    genesis = Home(tmp_path / "a").network().genesis
    assert (genesis.f, genesis.quorum, made["f"], made["quorum"]) == (1, 3, 1, 3)
    files = [tmp_path / "a" / "witnesses" / f"w{number}.key" for number in (2, 3, 4)]
    assert made["witness_keys"] == [str(file) for file in files]
    keys = [Home(tmp_path / "a").witness_key_file, *files]
    assert genesis.witnesses == tuple(
        (f"witness-{number}", PrivateKey.load(file).public) for number, file in enumerate(keys, 1)
    )
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o400] * 3


def test_what_to_copy_and_start_on_each_machine_is_told(create: Create, tmp_path: Path) -> None:
    told = create("--witnesses", 4).output
    assert "4 witnesses: 3 must sign, so 1 may be away; up to 1 may lie" in told
    assert f"copy {tmp_path / 'a' / 'witnesses' / 'w3.key'} and {tmp_path / 'a' / 'network.json'}" in told
    assert "--bootstrap ADDRESS --witness-key w3.key" in told
    assert "delete the key files here" in told


def test_a_number_that_wastes_a_witness_is_told(create: Create) -> None:
    told = create("--witnesses", 5).output
    assert "5 witnesses: 4 must sign" in told
    assert "4 witnesses withstand as many liars with a smaller quorum, 7 withstand 2" in told


def test_keys_made_on_their_own_machines_are_named(create: Create, tmp_path: Path) -> None:
    bob, carol = PrivateKey.generate(), PrivateKey.generate()
    done = create("--witness", f"bob={bob.public}", "--witness", f"carol={carol.public}", "--witnesses", 4)
    assert done.exit_code == 0
    genesis = Home(tmp_path / "a").network().genesis
    assert [name for name, _ in genesis.witnesses] == ["witness-1", "bob", "carol", "witness-4"]
    assert dict(genesis.witnesses)["carol"] == carol.public
    assert [file.name for file in (tmp_path / "a" / "witnesses").iterdir()] == ["w4.key"]


def test_one_witness_is_the_default_and_needs_no_words(create: Create, tmp_path: Path) -> None:
    told = create().output
    assert "witnesses" not in told
    assert len(Home(tmp_path / "a").network().genesis.witnesses) == 1
    assert not (tmp_path / "a" / "witnesses").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--witness", "bob"], "is not NAME=PUBLICKEY"),
        (["--witness", "bob=xyz"], "not a public key"),
        (["--witness", "a b=" + "ab" * 32], "witness 'a b'"),
        (["--witnesses", "1", "--witness", "bob=" + "ab" * 32], "--witnesses 1"),
        (["--witnesses", "0"], "0 is not in the range"),
    ],
)
def test_witnesses_that_cannot_be_are_refused_and_no_network_is_made(
    create: Create, tmp_path: Path, words: list[str], reason: str
) -> None:
    done = create(*words)
    assert done.exit_code != 0
    assert reason in done.output + str(done.exception)
    assert not (tmp_path / "a" / "network.json").exists()


# ---------------------------------------------------------------------- starting as one


def other_home(tmp_path: Path) -> Home:
    """Another machine's home, of the same network."""
    home = Home(tmp_path / "b")
    home.create()
    (tmp_path / "a" / "network.json").rename(home.network_file)
    return home


def test_a_witness_key_is_taken_into_the_home_once(create: Create, tmp_path: Path) -> None:
    create("--witnesses", 4)
    home, folder = other_home(tmp_path), tmp_path / "a" / "witnesses"
    home.take_witness_key(folder / "w2.key")
    home.take_witness_key(folder / "w2.key")
    assert home.witness_key_file.read_bytes() == (folder / "w2.key").read_bytes()
    with pytest.raises(KeyDamaged, match="one peer is one witness"):
        home.take_witness_key(folder / "w3.key")
    (tmp_path / "noise").write_text("noise")
    for wrong in (tmp_path / "noise", tmp_path / "nothing"):
        with pytest.raises(KeyDamaged, match="give the key file"):
            home.take_witness_key(wrong)


@pytest.mark.parametrize("key", [None, "stranger"])
def test_a_peer_that_must_be_a_witness_and_cannot_does_not_start(
    create: Create, tmp_path: Path, key: str | None
) -> None:
    create("--witnesses", 4)
    home = other_home(tmp_path)
    if key:
        PrivateKey.generate().save(home.witness_key_file)
    wanted = "is not in the genesis" if key else "there is no witness key here"
    with pytest.raises(ConfigError, match=wanted):
        run(Settings.load(home.path, {"witness": "true"}, {}))


def test_a_damaged_witness_key_is_told_by_its_file(create: Create, tmp_path: Path) -> None:
    create()
    home = other_home(tmp_path)
    home.witness_key_file.write_text("noise")
    with pytest.raises(ForgeError, match=r"witness\.key"):
        run(Settings.load(home.path, {}, {}))


@pytest.mark.parametrize(("text", "wanted"), [("true", "true"), ("false", "false"), ("'auto'", "auto")])
def test_witness_is_a_word_or_a_boolean(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "peer.toml").write_text(f"witness = {text}\n")
    assert Settings.load(tmp_path, {}, {}).witness == wanted
    assert Settings.load(tmp_path, {}, {"FORGE_WITNESS": wanted}).witness == wanted
    with pytest.raises(ConfigError, match="FORGE_WITNESS"):
        Settings.load(tmp_path, {}, {"FORGE_WITNESS": "maybe"})
