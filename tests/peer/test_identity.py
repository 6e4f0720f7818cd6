"""The home folder and its lock, keys, PeerIDs, and the binding between peer and account."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from peer.errors import HomeError, HomeLocked, IdentityInvalid, KeyDamaged, NetworkFileInvalid
from peer.identity import Home, NetworkFile
from peer.peerkey import Binding, PeerKey, peer_id_of, public_of


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def genesis() -> Genesis:
    return Genesis.create(name="test", supply=[], witnesses=[("w", PrivateKey.generate().public)])


# ---------------------------------------------------------------- PeerIDs


def test_a_known_key_has_the_peer_id_that_libp2p_gives_it() -> None:
    # libp2p specs, peer-ids: the Ed25519 test vector's public key
    public = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
    assert peer_id_of(public) == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


def test_a_peer_id_embeds_its_public_key() -> None:
    for _ in range(20):
        key = PeerKey.generate()
        assert public_of(key.peer_id) == key.public.hex()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "12D3KooW",
        "0" * 52,
        "1" * 52,
        "z" * 52,
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pé",
    ],
)
def test_what_is_no_ed25519_peer_id_is_refused(text: str) -> None:
    with pytest.raises(IdentityInvalid):
        public_of(text)


def test_the_key_file_is_private_and_comes_back_the_same(tmp_path: Path) -> None:
    key = PeerKey.generate()
    key.save(tmp_path / "peer.key")
    assert mode(tmp_path / "peer.key") == 0o400
    assert (tmp_path / "peer.key").read_bytes()[:4] == b"\x08\x01\x12\x40"
    assert PeerKey.load(tmp_path / "peer.key").peer_id == key.peer_id


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"\0" + data[1:], lambda data: data[:-1] + bytes([data[-1] ^ 1])]
)
def test_a_damaged_key_file_is_refused(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "peer.key"
    PeerKey.generate().save(path)
    data = damage(path.read_bytes())
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(KeyDamaged, match=r"peer\.key"):
        PeerKey.load(path)


# ---------------------------------------------------------------- binding


def test_a_binding_verifies_from_the_peer_id_alone() -> None:
    Binding.create(PrivateKey.generate(), PeerKey.generate()).verify()


def test_no_part_of_a_binding_can_be_exchanged() -> None:
    ours = Binding.create(PrivateKey.generate(), PeerKey.generate())
    theirs = Binding.create(PrivateKey.generate(), PeerKey.generate())
    for field in ("peer_id", "account", "account_signature", "peer_signature"):
        with pytest.raises(IdentityInvalid):
            replace(ours, **{field: getattr(theirs, field)}).verify()


def test_an_account_of_small_order_binds_nothing() -> None:
    ours = Binding.create(PrivateKey.generate(), PeerKey.generate())
    with pytest.raises(IdentityInvalid):
        replace(ours, account="01" + "00" * 31).verify()


# ---------------------------------------------------------------- home


def test_a_home_is_created_for_its_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "b")
    home.create()
    assert all(mode(folder) == 0o700 for folder in (home.path, home.keys, home.blobs, home.runs))


def test_the_identity_is_made_once_and_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    first, second = home.identity(), home.identity()
    assert (first.peer_id, first.account) == (second.peer_id, second.account)
    assert mode(home.account_key_file) == 0o600
    first.binding.verify()


def test_a_damaged_account_key_is_named_and_not_overwritten(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.account_key_file.write_bytes(b"nonsense")
    home.account_key_file.chmod(0o600)
    with pytest.raises(KeyDamaged, match=r"account\.key"):
        home.identity()
    assert home.account_key_file.read_bytes() == b"nonsense"


def test_a_home_held_by_another_process_is_refused_with_its_pid(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from peer.identity import Home\n"
        "with Home(Path(sys.argv[1])).lock():\n print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert Home(tmp_path).holder() == other.pid
        with pytest.raises(HomeLocked, match=f"pid {other.pid}"), Home(tmp_path).lock():
            pass
        other.kill()
    with Home(tmp_path).lock():  # the kernel let go of it
        assert Home(tmp_path).holder() == os.getpid()
    assert Home(tmp_path).holder() == 0


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeError, match="home"), Home(tmp_path / "home").lock():
        pass


def test_a_read_only_home_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, how: False)  # root may write anywhere, so chmod proves nothing
    with pytest.raises(HomeError, match="read-only") as caught, Home(tmp_path / "home").lock():
        pass
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- network.json


def test_a_network_file_comes_back_the_same(tmp_path: Path) -> None:
    file = NetworkFile(genesis=genesis(), bootstrap=("/ip4/127.0.0.1/tcp/1/p2p/x",))
    file.save(tmp_path / "network.json")
    again = NetworkFile.load(tmp_path / "network.json")
    assert again.genesis.id == file.genesis.id
    assert again.bootstrap == file.bootstrap


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "not JSON"),
        (b"[]", "expected the keys"),
        (b'{"genesis": {}}', "expected the keys"),
        (b'{"genesis": {}, "bootstrap": [1]}', "list of addresses"),
        (b'{"genesis": {}, "bootstrap": []}', "genesis"),
        (b'{"genesis": {"f": 0.5}, "bootstrap": []}', "genesis"),
    ],
)
def test_a_bad_network_file_is_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "network.json"
    path.write_bytes(data)
    with pytest.raises(NetworkFileInvalid, match=words) as caught:
        NetworkFile.load(path)
    assert "network.json" in str(caught.value)


def test_a_missing_network_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NetworkFileInvalid, match="network create"):
        NetworkFile.load(tmp_path / "network.json")


def test_neither_hivemind_nor_pydantic_is_imported_for_a_look_at_the_home() -> None:
    code = "import sys, peer.identity; print(*[m for m in ('hivemind', 'torch', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
