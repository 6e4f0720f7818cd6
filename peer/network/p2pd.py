"""One libp2p daemon process (p2pd): started so that it dies with us, its sockets private, leftovers of a crash swept.

hivemind's own start leaves p2pd running after a SIGKILL of its owner and puts its sockets, unauthenticated, into the
shared temporary folder; so we start the binary ourselves.

IO: processes and the socket folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from peer.errors import TransportFailed
from peer.files import make_folder, write_atomic

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 2 << 20
"""p2pd refuses unary messages above this; ours are smaller (wire.FRAME_LIMIT), so a false length costs no more."""
_START_TIMEOUT_S = 20.0
_SOCKET_PATH_LIMIT = 106
"""Unix socket paths hold 107 bytes."""
_SOCKET_NAME = len("/sockets/p2pd-12345678.sock")
_LAUNCH = (
    "import ctypes,os,sys\n"
    "if sys.platform=='linux': ctypes.CDLL(None).prctl(1,9)\n"  # PR_SET_PDEATHSIG, SIGKILL
    "if os.getppid()!=int(sys.argv[1]): os._exit(1)\n"  # the owner died before the line above
    "os.execv(sys.argv[2],sys.argv[2:])"
)


@dataclass(frozen=True, kw_only=True)
class P2pdOptions:
    """How p2pd meets the world."""

    listen: tuple[str, ...]
    """Multiaddresses; the only ports that are opened."""
    announce: tuple[str, ...] = ()
    """What to tell others instead, behind a NAT."""
    relay: bool = False
    """Use and offer circuit relays."""


def binary() -> Path:
    """The p2pd that hivemind brings; found without importing hivemind.

    Raises:
        TransportFailed: hivemind is not installed, or without its p2pd.
    """
    spec = importlib.util.find_spec("hivemind")
    path = Path(spec.origin).parent / "hivemind_cli" / "p2pd" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise TransportFailed(f"p2pd is not at {path or 'hivemind/hivemind_cli'}", "install hivemind again")
    return path


class P2pd:
    """A running p2pd."""

    def __init__(self, process: asyncio.subprocess.Process, sockets: Path, address: str) -> None:
        self._process = process
        self.sockets = sockets
        """Private folder for its socket and ours."""
        self.address = address
        """Multiaddress of its control socket."""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Returns its exit status once it is dead."""
        return await self._process.wait()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, *, pid_file: Path, key_file: Path, options: P2pdOptions) -> AsyncIterator[P2pd]:
        """Runs p2pd for as long as the context lasts; leftovers that `pid_file` names are swept first.

        Raises:
            TransportFailed: it does not come up; the message has its last words.
        """
        sweep(pid_file)
        check_ports(options.listen)
        sockets = _socket_folder(pid_file.parent)
        try:
            self = cls(*await _spawn(sockets, key_file, options))
            async with asyncio.TaskGroup() as tasks:
                try:
                    await _ready(self._process, tasks)
                    start = psutil.Process(self.pid).create_time()
                    note = {"pid": self.pid, "started": start, "sockets": str(sockets)}
                    write_atomic(pid_file, json.dumps(note).encode())
                    yield self
                finally:
                    if self._process.returncode is None:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(self.pid, signal.SIGKILL)  # it holds no state worth a graceful end
                    await self._process.wait()
        except* TransportFailed as group:
            raise group.exceptions[0] from None
        finally:
            shutil.rmtree(sockets, ignore_errors=True)
            pid_file.unlink(missing_ok=True)


async def _spawn(sockets: Path, key_file: Path, options: P2pdOptions) -> tuple[asyncio.subprocess.Process, Path, str]:
    address = f"/unix{sockets}/p2pd-{secrets.token_hex(4)}.sock"
    arguments = [
        f"-listen={address}",
        f"-id={key_file}",
        f"-hostAddrs={','.join(options.listen)}",
        *([f"-announceAddrs={','.join(options.announce)}"] if options.announce else []),
        "-dhtServer=1",
        "-connManager=1",
        "-tls=1",
        "-autonat=0",
        "-natPortMap=0",
        "-b=0",
        f"-relay={int(options.relay)}",
        f"-relayService={int(options.relay)}",
        "-idleTimeout=30s",
        f"-persistentConnMaxMsgSize={MESSAGE_LIMIT}",
    ]
    environment = {**os.environ, "GOLOG_LOG_LEVEL": os.environ.get("GOLOG_LOG_LEVEL", "error"), "GOLOG_LOG_FMT": "json"}
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(binary())]
    process = await asyncio.create_subprocess_exec(
        *launch,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # Ctrl-C on the terminal is for the daemon, which then ends p2pd itself
    )
    return process, sockets, address


async def _ready(process: asyncio.subprocess.Process, tasks: asyncio.TaskGroup) -> None:
    """Waits for p2pd's greeting, then keeps draining its output so that it never blocks on a full pipe."""
    assert process.stdout is not None
    last = b""
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not last.startswith(b"Peer ID:"):
                line = await process.stdout.readline()
                if not line:
                    said = last.decode(errors="replace").strip()[:300] or "nothing"
                    raise TransportFailed(f"p2pd did not start, it said: {said}", "is the port taken?")
                last = line
    except TimeoutError as exc:
        raise TransportFailed(f"p2pd was not ready within {_START_TIMEOUT_S:g} s") from exc
    tasks.create_task(_drain(process.stdout))


async def _drain(output: asyncio.StreamReader) -> None:
    while data := await output.read(1 << 16):
        log.debug("p2pd.says text=%r", data[:2000])


def check_ports(listen: tuple[str, ...]) -> None:
    """p2pd shares ports with whoever allows it, and says nothing where it cannot listen; so we ask the system first."""
    for address in listen:
        found = re.fullmatch(r"/(ip4|ip6)/([^/]+)/tcp/([1-9][0-9]*)", address)
        if found is None:
            continue
        family = socket.AF_INET if found[1] == "ip4" else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((found[2], int(found[3])))
            except (OSError, OverflowError) as exc:
                raise TransportFailed(f"p2pd cannot listen on {address}: {exc}", "choose another --listen") from exc


def _socket_folder(home: Path) -> Path:
    """A private folder whose socket paths fit the kernel's limit; in the home where that is short enough."""
    if len(os.fsencode(home)) + _SOCKET_NAME <= _SOCKET_PATH_LIMIT:
        folder = home / "sockets"
        shutil.rmtree(folder, ignore_errors=True)  # we hold the home's lock: whatever is there is stale
        make_folder(folder)
        return folder
    for base in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(base)) + 2 * _SOCKET_NAME <= _SOCKET_PATH_LIMIT:
            return Path(tempfile.mkdtemp(prefix="forge-", dir=base))  # mode 0700
    raise TransportFailed(f"no folder short enough for a unix socket: {home}", "set TMPDIR to a short path")


def sweep(pid_file: Path) -> bool:
    """Ends the p2pd that an earlier owner of this home left behind, if it is really that one; True if it was."""
    try:
        note = json.loads(pid_file.read_bytes())
        pid, started, sockets = int(note["pid"]), float(note["started"]), Path(str(note["sockets"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    swept = _kill_ours(pid, started, sockets)
    if sockets.parent == pid_file.parent or sockets.name.startswith("forge-"):
        shutil.rmtree(sockets, ignore_errors=True)
    pid_file.unlink(missing_ok=True)
    return swept


def _kill_ours(pid: int, started: float, sockets: Path) -> bool:
    try:
        process = psutil.Process(pid)
        command: Sequence[str] = process.cmdline()
        mine = abs(process.create_time() - started) < 1 and any(f"-listen=/unix{sockets}/" in word for word in command)
        if not mine:
            return False
        process.kill()
        process.wait(5)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.TimeoutExpired):
        return False
    log.warning("p2pd.orphan_ended pid=%d", pid)
    return True
