"""Who a peer is: its home folder and lock, its keys, and the network it belongs to.

One home belongs to one running daemon. Imports no hivemind and no pydantic, so that `--help` stays fast.

IO: the home folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger import codec
from ledger.errors import LedgerError
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from peer.errors import HomeError, HomeLocked, KeyDamaged, NetworkFileInvalid
from peer.files import make_folder, write_atomic
from peer.peerkey import Binding, PeerKey


@dataclass(frozen=True, kw_only=True)
class PeerIdentity:
    """Everything this peer signs with, and what others may check of it."""

    binding: Binding
    """The public half: PeerID and account, bound by signatures both ways."""
    account_key: PrivateKey = field(repr=False)
    """Owns the credits."""
    peer_key: PeerKey = field(repr=False)
    """The libp2p key."""
    peer_key_file: Path
    """The same in the format that p2pd reads."""

    @property
    def peer_id(self) -> str:
        """libp2p PeerID, base58."""
        return self.binding.peer_id

    @property
    def account(self) -> str:
        """Account key, hex."""
        return self.binding.account


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """What a peer must hold to join a network: the genesis and where to find others."""

    genesis: Genesis
    """The network's terms; its id is what peers compare."""
    bootstrap: tuple[str, ...] = ()
    """Multiaddresses with `/p2p/<PeerID>` at the end."""

    @classmethod
    def parse(cls, data: bytes, where: str = "network file") -> NetworkFile:
        """Strict in its keys; the genesis itself is checked by the ledger.

        Raises:
            NetworkFileInvalid: naming the first thing that does not fit.
        """
        try:
            value: Any = json.loads(data)
        except ValueError as exc:
            raise NetworkFileInvalid(f"{where}: not JSON: {exc}") from exc
        if not isinstance(value, dict) or set(value) != {"genesis", "bootstrap"}:
            got = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise NetworkFileInvalid(f"{where}: has {got}, expected the keys 'genesis' and 'bootstrap'")
        bootstrap = value["bootstrap"]
        if not isinstance(bootstrap, list) or not all(isinstance(item, str) for item in bootstrap):
            raise NetworkFileInvalid(f"{where}: 'bootstrap' must be a list of addresses")
        try:
            genesis = Genesis.parse(codec.encode(value["genesis"]))
        except LedgerError as exc:
            raise NetworkFileInvalid(f"{where}: genesis: {exc}") from exc
        return cls(genesis=genesis, bootstrap=tuple(bootstrap))

    @classmethod
    def load(cls, path: Path) -> NetworkFile:
        """Raises NetworkFileInvalid."""
        try:
            data = path.read_bytes()
        except OSError as exc:
            fix = "create one with `forge-peer network create`, or copy the file of the network to join"
            raise NetworkFileInvalid(f"{path}: {exc.strerror}", fix) from exc
        return cls.parse(data, str(path))

    def encode(self) -> bytes:
        """Readable JSON; spaces and the order of keys do not matter to the genesis id."""
        value = {"genesis": json.loads(self.genesis.encode()), "bootstrap": list(self.bootstrap)}
        return json.dumps(value, indent=1).encode() + b"\n"

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        write_atomic(path, self.encode(), mode=0o644)


@dataclass(frozen=True)
class Home:
    """The layout of a home folder; nothing is touched until a method is called."""

    path: Path

    @property
    def network_file(self) -> Path:
        """`network.json`: genesis and bootstrap addresses."""
        return self.path / "network.json"

    @property
    def settings_file(self) -> Path:
        """`peer.toml`."""
        return self.path / "peer.toml"

    @property
    def ledger_file(self) -> Path:
        """The ledger's SQLite store."""
        return self.path / "ledger.db"

    @property
    def keys(self) -> Path:
        """Folder of the keys, mode 0700."""
        return self.path / "keys"

    @property
    def account_key_file(self) -> Path:
        """Owns the credits."""
        return self.keys / "account.key"

    @property
    def witness_key_file(self) -> Path:
        """Exists only on witnesses."""
        return self.keys / "witness.key"

    @property
    def witness_keys(self) -> Path:
        """Folder of witness keys made here for other machines."""
        return self.path / "witnesses"

    @property
    def peer_key_file(self) -> Path:
        """libp2p key."""
        return self.keys / "peer.key"

    @property
    def blobs(self) -> Path:
        """Folder of the blob store."""
        return self.path / "blobs"

    @property
    def runs(self) -> Path:
        """One folder per run; each belongs to that run's worker."""
        return self.path / "runs"

    @property
    def p2pd_pid_file(self) -> Path:
        """Pid and sockets of our p2pd, for the sweep after a crash."""
        return self.path / "p2pd.json"

    @property
    def peers_file(self) -> Path:
        """Addresses of peers met before."""
        return self.path / "peers.json"

    @property
    def lock_file(self) -> Path:
        """Locked while a daemon runs; holds its pid."""
        return self.path / "lock"

    def create(self) -> None:
        """Creates what is missing, mode 0700.

        Raises:
            HomeError: a place that cannot be created or written to.
        """
        for folder in (self.path, self.keys, self.blobs, self.runs):
            make_folder(folder)

    def holder(self) -> int:
        """The pid of the daemon that holds this home, or 0."""
        try:
            handle = os.open(self.lock_file, os.O_RDONLY)
        except OSError:
            return 0
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _pid_in(handle)
        finally:
            os.close(handle)
        return 0

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the home for this process; the kernel lets go of it when the process dies, however it dies.

        Raises:
            HomeLocked: another process holds it; the message has its pid.
            HomeError: the home is read-only.
        """
        self.create()
        try:
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise HomeError(f"{self.path}: cannot be written to: {exc.strerror}", "choose another --home") from exc
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                pid = _pid_in(handle)
                fix = "stop that daemon first, or give this one another --home"
                raise HomeLocked(f"{self.path}: held by another daemon, pid {pid}", fix) from exc
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
            os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def identity(self) -> PeerIdentity:
        """The peer's keys; those that do not exist yet are made.

        Raises:
            KeyDamaged: a key file that cannot be used; it is never overwritten.
        """
        if not self.peer_key_file.exists():
            PeerKey.generate().save(self.peer_key_file)
        peer_key = PeerKey.load(self.peer_key_file)
        account_key = _ledger_key(self.account_key_file)
        binding = Binding.create(account_key, peer_key)
        return PeerIdentity(
            binding=binding, account_key=account_key, peer_key=peer_key, peer_key_file=self.peer_key_file
        )

    def network(self) -> NetworkFile:
        """Raises NetworkFileInvalid."""
        return NetworkFile.load(self.network_file)

    def take_witness_key(self, file: Path) -> None:
        """Makes a witness key made elsewhere this home's own; the same one again changes nothing.

        Raises:
            KeyDamaged: the file is no key, or this home has another one.
        """
        offered = _loaded(file, "give the key file that `forge-peer network create` or `forge-ledger keygen` wrote")
        if self.witness_key_file.exists():
            own = self.witness_key()
            if own is not None and own.public != offered.public:
                raise KeyDamaged(
                    f"{file}: witness key {offered.public[:16]}, but {self.path} has {own.public[:16]}",
                    "one peer is one witness: use another --home",
                )
            return
        self.create()
        offered.save(self.witness_key_file)

    def witness_key(self) -> PrivateKey | None:
        """The witness key, if there is one.

        Raises:
            KeyDamaged: a key file that cannot be used.
        """
        if not self.witness_key_file.exists():
            return None
        return _loaded(self.witness_key_file, "restore it from a backup; this peer signs with it as a witness")


def _ledger_key(path: Path) -> PrivateKey:
    try:
        if not path.exists():
            PrivateKey.generate().save(path)
        return PrivateKey.load(path)
    except (LedgerError, ValueError, OSError) as exc:
        raise KeyDamaged(f"{path}: {exc}", "restore it from a backup; it owns this peer's credits") from exc


def _loaded(path: Path, fix: str) -> PrivateKey:
    try:
        return PrivateKey.load(path)
    except (LedgerError, ValueError, OSError) as exc:
        raise KeyDamaged(f"{path}: {exc}", fix) from exc


def _pid_in(handle: int) -> int:
    text = os.pread(handle, 32, 0).strip()
    return int(text) if text.isdigit() else 0
