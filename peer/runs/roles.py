"""Who does what in a run, by what its spec says: members hold the whole model, or stages of it.

IO: through the parts it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.keys import PrivateKey
from peer.blobs.fetcher import BlobFetcher
from peer.blobs.store import BlobStore
from peer.directory import Directory
from peer.files import write_atomic
from peer.ledger.logs import Logs
from peer.ledger.replication import Replication
from peer.network.network import Network
from peer.runs.files import RunFiles
from peer.runs.hardware import Hardware
from peer.runs.history import History
from peer.runs.leader import Leader
from peer.runs.member import Member
from peer.runs.run import Run
from peer.runs.staged.expert_worker import ExpertWorker
from peer.runs.staged.leader import StagedLeader
from peer.runs.staged.member import StagedMember
from peer.runs.staged.worker import StageWorker
from peer.runs.whereabouts import Whereabouts
from peer.runs.worker import RunWorker

AnyWorker = RunWorker | StageWorker
AnyMember = Member | StagedMember
AnyLeader = Leader | StagedLeader


@dataclass(frozen=True, kw_only=True)
class Roles:
    """What the roles of one daemon's runs are made of."""

    logs: Logs
    replication: Replication
    network: Network
    store: BlobStore
    fetcher: BlobFetcher
    directory: Directory
    hardware: Hardware

    @property
    def _key(self) -> PrivateKey:
        return self.logs.account

    def worker(self, run: Run, providers: Callable[[], Sequence[str]]) -> AnyWorker:
        """The run's worker; its process starts with its first task."""
        ours = run.spec["submitter"] == self._key.public
        files = RunFiles(run=run, store=self.store, fetcher=self.fetcher, providers=providers)
        make = RunWorker if run.staged is None else ExpertWorker if run.staged.experts else StageWorker
        return make(
            run=run, store=self.store, files=files, history=History(run, self.store, ours=ours),
            hardware=self.hardware,
        )  # fmt: skip

    def member(self, run: Run, worker: AnyWorker) -> AnyMember:
        """Our part in a run."""
        leader = Whereabouts(run.leaders, self.directory.peer_of)
        if isinstance(worker, StageWorker):
            return StagedMember(
                run=run, worker=worker, logs=self.logs, replication=self.replication, network=self.network,
                key=self._key, advert=self.directory.own_advert, leader=leader,
                account_of=self.directory.account_of, peer_of=self.directory.peer_of,
            )  # fmt: skip
        return Member(
            run=run, worker=worker, logs=self.logs, replication=self.replication, network=self.network,
            key=self._key, advert=self.directory.own_advert, leader=leader,
        )  # fmt: skip

    def lead_worker(self, worker: AnyWorker) -> AnyWorker:
        """Who works for our leader role: with overlap another one than the one that trains meanwhile."""
        return worker.another("lead") if isinstance(worker, RunWorker) and worker.run.plan.overlap else worker

    def leader(self, run: Run, own: AnyWorker, worker: AnyWorker, member: AnyMember, *, after: bool) -> AnyLeader:
        """Our leading of a run, by the worker `own`; `after`: another one led before."""
        if isinstance(own, StageWorker):
            return StagedLeader(
                run=run, worker=own, logs=self.logs, replication=self.replication, network=self.network,
                account=self._key.public, life=_life(run.folder / "leads"),
            )  # fmt: skip
        assert isinstance(member, Member)  # made for the same run
        return Leader(
            run=run, worker=own, logs=self.logs, replication=self.replication, network=self.network,
            account=self._key.public, member=member if own is worker else None, after_another=after,
        )  # fmt: skip


def _life(file: Path) -> int:
    """A number that grows with every call."""
    life = int(file.read_text()) + 1 if file.exists() else 1
    write_atomic(file, str(life).encode())
    return life
