"""The demo's daemons: each `forge-peer start` is a process of its own, and none is left when the yard closes.

IO: starts, signals and waits for processes; reads and writes below the demo's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from peer.cli.client import Client
from peer.errors import ForgeError

READY_S = 60.0
STOP_S = 8.0
COMMAND_S = 180.0
LEASH = (  # the kernel kills what it starts when the demo dies, however it dies (PR_SET_PDEATHSIG, SIGKILL)
    "import ctypes,os,sys\n"
    "if sys.platform=='linux': ctypes.CDLL(None).prctl(1,9)\n"
    "if os.getppid()!=int(sys.argv[1]): os._exit(1)\n"
    "os.execv(sys.argv[2],sys.argv[2:])"
)


class DemoFailed(ForgeError):
    """Something that the demo shows did not hold."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__("FP-590", message, fix)


def program(name: str) -> list[str]:
    """The command line that runs one of our console scripts with this very Python, and dies with this process."""
    script = Path(sys.executable).with_name(name)
    modules = {"forge-peer": "peer.cli.main", "forge-ledger": "ledger.cli.main"}
    code = f"from {modules[name]} import main; main()"
    command = [str(script)] if script.exists() else [sys.executable, "-c", code]
    return [sys.executable, "-c", LEASH, str(os.getpid()), *command]


def run(name: str, *words: object, expect: int = 0) -> str:
    """Runs one of our commands to its end; gives its standard output.

    Raises:
        DemoFailed: another exit status than expected.
    """
    command = [*program(name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if done.returncode != expect:
        told = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise DemoFailed(f"{name} {words[0]}: exit status {done.returncode}, wanted {expect}: {' '.join(told)}")
    return done.stdout


def run_json(name: str, *words: object, expect: int = 0) -> Any:
    """Like `run` with `--json`; gives the last line's value."""
    return json.loads(run(name, *words, "--json", expect=expect).strip().splitlines()[-1])


@dataclass(kw_only=True)
class DemoPeer:
    """One volunteer of the demo."""

    number: int
    """From 1; the first one makes the network and leads the run."""
    home: Path
    """Its home folder."""
    account: str = ""
    """Known once it has started."""
    address: str = ""
    """Where others reach it."""
    process: subprocess.Popen[bytes] | None = None
    """Its daemon, while it runs."""
    asked: bool = False
    """Whether the daemon was asked to stop."""
    family: dict[int, psutil.Process] = field(default_factory=dict)
    """Every process that this daemon ever started, as far as we have seen."""

    @property
    def label(self) -> str:
        """What the demo calls it."""
        return f"peer {self.number}"

    @property
    def log(self) -> Path:
        """What its daemon writes to standard output and standard error."""
        return self.home.parent / f"{self.home.name}.log"

    @property
    def client(self) -> Client:
        """Its gateway."""
        return Client(self.home)

    @property
    def command(self) -> list[str]:
        """What starts its daemon."""
        return [*program("forge-peer"), "start", "--home", str(self.home)]

    def start(self, *words: object) -> None:
        """Starts `forge-peer start` in a session of its own; does not wait."""
        self.asked = False
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Whether its gateway answers; then its account and address are known.

        Raises:
            DemoFailed: the daemon ended.
        """
        self.must_run()
        try:
            status = self.client.get("/status")
        except ForgeError:
            return False
        self.account = status["account"]
        self.address = next(iter(status["addresses"]), "")
        return bool(self.address)

    def wait_ready(self) -> None:
        """Waits until it answers. Raises DemoFailed."""
        deadline = time.monotonic() + READY_S
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise DemoFailed(f"{self.label}: its daemon does not answer after {READY_S:.0f} s", f"see {self.log}")
            time.sleep(0.1)

    def must_run(self) -> None:
        """Raises DemoFailed if the daemon has ended."""
        if self.process is None or self.process.poll() is not None:
            status = self.process.returncode if self.process else "none"
            last = " ".join(self.log.read_text("utf-8", "replace").strip().splitlines()[-1:])
            raise DemoFailed(f"{self.label}: its daemon ended with status {status}: {last}", f"see {self.log}")

    def see_family(self) -> None:
        """Remembers which processes belong to the daemon now."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(self.process.pid)
                self.family |= {child.pid: child for child in parent.children(recursive=True)}

    def kill(self) -> None:
        """SIGKILL to the daemon alone; what it started must die of it."""
        assert self.process is not None
        self.see_family()
        self.process.kill()
        self.process.wait()

    def orphans(self, patience_s: float = 3.0) -> list[int]:
        """Processes of an ended daemon that still live after some patience."""
        deadline = time.monotonic() + patience_s
        while left := [pid for pid, process in self.family.items() if _lives(process)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return left

    def ask_to_stop(self) -> None:
        """SIGTERM, if it runs and was not asked yet (the second one would be rude); does not wait."""
        self.see_family()
        if self.process is not None and self.process.poll() is None and not self.asked:
            self.asked = True
            self.process.terminate()

    def stop(self) -> bool:
        """Ends the daemon cleanly, at last with SIGKILL; whether clean was enough."""
        if self.process is None:
            return True
        self.ask_to_stop()
        try:
            clean = self.process.wait(STOP_S) == 0
        except subprocess.TimeoutExpired:
            clean = False
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pid in self.orphans(2.0):
            clean = False
            with contextlib.suppress(psutil.Error):
                self.family[pid].kill()
        self.orphans(2.0)
        self.process = None
        return clean


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextlib.contextmanager
def yard(peers: list[DemoPeer]) -> Iterator[None]:
    """On leaving, however that happens, every daemon in the list is ended; SIGTERM and SIGHUP act like Ctrl-C."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # cleaning up must not be interrupted
        for peer in peers:
            peer.ask_to_stop()
        for peer in peers:
            peer.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
