"""Nothing is signed behind what our own key signed before: witnesses tell how far they have our logs.

A home restored from a backup, or a key used on two machines, would make our key contradict itself, and the log would be
frozen for ever. So before the first signature on a log a quorum of witnesses is asked for the newest head that they
know. Whoever certified or cosigned more than we have of it, with our own signature under it, stops us: FP-215. The
daemon goes on; that log is not written to.

IO: calls over the network, the store through `Storage`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from functools import partial

import structlog

from ledger import notes
from ledger.errors import LedgerError, NoteInvalid, SelfFork
from ledger.genesis import Genesis
from ledger.store.store import Store
from peer.errors import NetworkError, Unreachable
from peer.ledger.cosigning import WitnessPeers
from peer.ledger.errands import Errands
from peer.ledger.storage import Storage
from peer.messages import HeadAnswer, HeadQuery
from peer.network.network import Network

log = structlog.get_logger(__name__)

ASK_S = 5.0
RETRY_S = 0.5
"""First pause before a witness that did not answer is asked again; doubled up to 8 times that, with jitter."""
GRACE_S = 1.0
"""How long the answers beyond a quorum may take, of witnesses that were not found to be away."""
TELL_S = 10.0
"""How long the answers may lack before the operator is told; doubled each time."""


class OwnHeads:
    """What witnesses know of our own logs."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        account: str,
        network: Network,
        storage: Storage,
        witness_peers: WitnessPeers,
        here: str | None,
        errands: Errands,
        fix: str,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`here` is the name of our own witness, if we are one: what it knows is in our store; `fix` is the way out."""
        self._genesis = genesis
        self._account = account
        self._network = network
        self._storage = storage
        self._witness_peers = witness_peers
        self._here = here
        self._errands = errands
        self._fix = fix
        self._jitter = jitter
        self._checks: dict[str, asyncio.Future[None]] = {}
        self._proofs: dict[str, bytes] = {}
        self.forks: dict[str, SelfFork] = {}
        """By log: why it is not written to."""

    def begin(self, origin: str) -> asyncio.Future[None]:
        """Ask about a log of ours, in the background, unless that was done."""
        if origin not in self._checks:
            self._checks[origin] = asyncio.get_running_loop().create_future()
            self._errands.start(f"own head {origin[-20:]}", self._check(origin))
        return self._checks[origin]

    async def cleared(self, origin: str) -> None:
        """Wait until it is sure that we may sign heads of a log of ours.

        Raises:
            SelfFork: our key signed more of it, or something else, elsewhere.
        """
        await asyncio.shield(self.begin(origin))
        if origin in self.forks:
            await self._storage.use(lambda store: store.check_own_head(origin, self._proofs[origin], self._account))
            del self.forks[origin]  # what was missing has been replicated meanwhile
            log.info("own_log_whole", origin=origin[-20:])

    async def _check(self, origin: str) -> None:
        done = self._checks[origin]
        try:
            with contextlib.suppress(SelfFork):  # it is kept in `forks`
                await self.compare(origin)
            done.set_result(None)
        except asyncio.CancelledError:
            done.cancel()
            raise
        except BaseException as exc:  # a bug: nobody may wait for ever, and the next one asks anew
            del self._checks[origin]
            done.set_exception(exc)
            done.exception()  # read: nobody may be waiting
            raise

    async def compare(self, origin: str) -> None:
        """Ask until a quorum of witnesses has answered.

        Raises:
            SelfFork: see `cleared`; from now on the log is not written to.
        """
        missing = self._genesis.quorum - (self._here is not None)
        if missing <= 0:
            return
        others = [name for name, _ in self._genesis.witnesses if name != self._here]
        answered, problems = asyncio.Semaphore(0), dict.fromkeys(others, "no answer yet")
        try:
            async with asyncio.TaskGroup() as tasks:
                asking = {name: tasks.create_task(self._ask(name, origin, answered, problems)) for name in others}
                patience = TELL_S
                while missing:
                    try:
                        async with asyncio.timeout(patience):
                            await answered.acquire()
                        missing -= 1
                    except TimeoutError:
                        self._tell(origin, missing, problems)
                        patience = min(2 * patience, 300.0)
                late = [task for name, task in asking.items() if problems.get(name) == "no answer yet"]
                if late:  # what was cosigned and not certified, perhaps only one witness knows
                    await asyncio.wait(late, timeout=GRACE_S)
                for task in asking.values():
                    task.cancel()
        except* SelfFork as group:
            fork = group.exceptions[0]
            assert isinstance(fork, SelfFork)
            if origin not in self.forks:
                self.forks[origin] = fork
                log.error("own_log_not_written", origin=origin[-20:], reason=str(fork), fix=self._fix)
        if origin in self.forks:
            raise self.forks[origin]

    def _tell(self, origin: str, missing: int, problems: dict[str, str]) -> None:
        told = "; ".join(f"witness {name}: {problem}" for name, problem in problems.items())
        log.warning("own_log_waits", origin=origin[-20:], answers_missing=missing, problems=told)

    async def _ask(self, name: str, origin: str, answered: asyncio.Semaphore, problems: dict[str, str]) -> None:
        pause = RETRY_S
        while True:
            try:
                peer = self._witness_peers().get(name)
                if peer is None:
                    pause = RETRY_S
                    raise Unreachable("its peer is not known yet")
                body = HeadQuery(origin=origin).body()
                answer = HeadAnswer.read(await self._network.call(peer, "ledger.head", body, timeout_s=ASK_S))
                for note in (answer.certificate, answer.promised):
                    if note:
                        await self._storage.use(partial(self._look, origin=origin, data=note.encode()))
            except SelfFork:
                raise
            except (NetworkError, LedgerError) as exc:
                problems[name] = str(exc)
                await asyncio.sleep(pause * (1 + self._jitter()) / 2)
                pause = min(2 * pause, 8 * RETRY_S)
            else:
                problems.pop(name, None)
                answered.release()
                return

    def _look(self, store: Store, *, origin: str, data: bytes) -> None:
        """On the store's thread: a head of this log that our own key signed must be one that we know."""
        note = notes.parse(data)
        if notes.checkpoint(note).origin != origin:
            raise NoteInvalid(f"the head is not of {origin}")
        try:
            notes.verify_head(note, [self._account])
        except NoteInvalid:
            return  # another leader of the run signed it, or nobody: it says nothing of our key
        try:
            store.check_own_head(origin, data, self._account)
        except SelfFork:
            self._proofs[origin] = data
            raise
