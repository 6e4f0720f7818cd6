"""Random worlds: logs that send, claim, issue and run rounds, with nonsense mixed in.

Pure: no IO; the same seed gives the same world.
"""

from random import Random

from ledger.entries import (
    Audit,
    Begin,
    Close,
    Entry,
    Issue,
    Open,
    Receipt,
    Recv,
    Seat,
    Send,
    Settle,
    StageOpen,
    StageReceipt,
    StageSeat,
    StageSettle,
    run_id,
)  # fmt: skip
from ledger.errors import EntryInvalid
from ledger.genesis import Genesis
from ledger.merkle import Tree, leaf_hash
from ledger.rules import RunRules, rules_of
from ledger.stages import bitmap, run_state

from .world import blob, key_of, spec_of

ACCOUNTS = [key_of(f"account {number}").public for number in range(4)]
ISSUER = ACCOUNTS[3]
GENESIS = Genesis.create(
    name="random", supply={ACCOUNTS[0]: 50_000, ACCOUNTS[1]: 500}, witnesses=[("witness", key_of("witness").public)],
    issuers={ISSUER: 3000},
)  # fmt: skip
SPECS = [
    spec_of(nonce=f"{number:032x}", leaders=[ACCOUNTS[number]], price=price, tokens_per_slot=700)
    for number, price in enumerate((30_000, 7_000))
]
_STATES = [blob(f"stage {number}") for number in range(3)]
SPECS.append(
    spec_of(
        nonce="2".zfill(32), leaders=[ACCOUNTS[2]], price=9_000, tokens_per_slot=700,
        blobs={**{name: blob(name) for name in ("model", "tokenizer", "manifest")}, "state": run_state(_STATES)},
        stages={"shares": [300_000, 600_001, 99_999], "states": _STATES, "microbatch": 2, "experts": 1},
    )
)  # fmt: skip
RUNS = [run_id(spec) for spec in SPECS]
STAGED = RUNS[2]
"""The run with stages: two and a group of experts."""


class World:
    """Logs that grow at random; mostly valid, often void, sometimes invalid for good."""

    def __init__(self, seed: int, steps: int = 180) -> None:
        self.rng = Random(seed)
        self.logs: dict[str, list[bytes]] = {}
        self.trees: dict[str, Tree] = {}
        self.rules = {
            origin: rules_of(GENESIS.terms, origin, signatures=False)
            for origin in [*map(GENESIS.origin, ACCOUNTS), *map(GENESIS.run_origin, RUNS)]
        }
        self.broken: set[str] = set()
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        rng = self.rng
        origin = rng.choice([*self.rules, *map(GENESIS.run_origin, RUNS)])
        rules = self.rules[origin]
        entry = self._run_entry(rules) if isinstance(rules, RunRules) else self._account_entry()
        if entry is None:
            return
        try:
            rules.apply(entry)
        except EntryInvalid:
            if rng.random() > 0.03:
                return  # most writers do not write what no witness would cosign
            self.broken.add(origin)
        data = entry.encode()
        if origin in self.broken and rng.random() < 0.3:
            data = data[:-1]
        self.logs.setdefault(origin, []).append(data)
        self.trees.setdefault(origin, Tree()).append(leaf_hash(data))

    def _account_entry(self) -> Entry | None:
        rng, draw = self.rng, self.rng.random()
        if draw < 0.55:
            to = rng.choice([*ACCOUNTS, *(f"run/{run}" for run in RUNS * 4)])
            return Send(to=to, amount=rng.choice([1, 50, 333, 999, 4999]), memo=str(rng.random()))
        if draw < 0.62:
            return Issue(to=rng.choice(ACCOUNTS), amount=rng.choice([5, 400, 2000]))
        return self._recv(rng.choice(list(self.rules)))

    def _recv(self, source: str) -> Entry | None:
        rng = self.rng
        tree = self.trees.get(source, Tree())
        if not tree.size:
            return None
        if rng.random() < 0.01:  # more of the source than anybody ever saw
            return Recv(origin=source, index=0, size=tree.size + 1, root="00" * 32)
        size = tree.size if rng.random() < 0.8 else rng.randint(1, tree.size)
        index = size - 1 if rng.random() < 0.8 else rng.randrange(size)
        root = tree.root(size) if rng.random() < 0.96 else bytes(32)
        return Recv(origin=source, index=index, size=size, root=root.hex())

    def _run_entry(self, rules: RunRules) -> Entry | None:
        rng, draw = self.rng, self.rng.random()
        if rules.begin is None:
            return Begin(spec=SPECS[RUNS.index(rules.run)])
        if draw < 0.20:
            return self._recv(GENESIS.origin(rng.choice(ACCOUNTS[:2] if rng.random() < 0.8 else ACCOUNTS)))
        if draw < 0.22:
            return Close(state=rules.state, reason="")
        if draw < 0.23:
            return Audit(round=1, account=rng.choice(ACCOUNTS), verdict="?", data=0)
        if rules.open is None or draw < 0.30:
            return self._open(rules) if rules.stages is None else self._stage_open(rules)
        if isinstance(rules.open, StageOpen):
            early = len(rules.receipts) < len(rules.open.roster) and rng.random() < 0.9
            return self._stage_receipt(rules, rules.open) if early else self._stage_settle(rules, rules.open)
        if draw < 0.70:
            return self._receipt(rules, rules.open)
        receipts = sorted(rng.sample(list(rules.receipts), rng.randint(len(rules.receipts) // 2, len(rules.receipts))))
        return Settle(round=rules.open.round, receipts=tuple(receipts), state=blob(rng.random()))

    def _open(self, rules: RunRules) -> Entry:
        rng, cursor, roster = self.rng, rules.slot_cursor, []
        for account in rng.sample(ACCOUNTS, rng.randint(1, 3)):
            cursor += rng.randint(0, 2)
            quota = rng.choice([1, 3, 8])
            roster.append(Seat(account, cursor, quota))
            cursor += quota
        return Open(round=rules.settled + 1, state=rules.state, roster=tuple(roster))

    def _receipt(self, rules: RunRules, opened: Open) -> Entry:
        seat = self.rng.choice(opened.roster)
        count = self.rng.randint(1, seat.quota)
        return Receipt(
            network=GENESIS.id, run=rules.run, round=opened.round, account=seat.account, state_in=opened.state,
            update=blob(0), tokens=count * 700, slots=(seat.slot_start, count), loss=0, steps=0, leaves="00" * 32,
            signature="00" * 64,
        )  # type: ignore[arg-type]  # fmt: skip

    def _stage_open(self, rules: RunRules) -> Entry:
        rng, roster = self.rng, []
        start = end = rules.slot_cursor + rng.randint(0, 2)
        accounts, drivers = rng.sample(ACCOUNTS, rng.randint(2, 4)), rng.randint(1, 2)
        for account in accounts[:drivers]:
            quota = 2 * rng.randint(1, 3)
            roster.append(StageSeat(account, end, quota, 0))
            end += quota
        for number, account in enumerate(accounts[drivers:]):
            roster.append(StageSeat(account, start, end - start, rng.randint(1, 2) if number else 1))
        return StageOpen(round=rules.settled + 1, state=rules.state, roster=tuple(roster))

    def _stage_receipt(self, rules: RunRules, opened: StageOpen) -> Entry | None:
        seat, (start, slots) = self.rng.choice(opened.roster), opened.slots
        first, own = (seat.slot_start - start) // 2, seat.quota // 2
        done = set(range(first, first + own))
        for other in rules.receipts.values():
            if isinstance(other, StageReceipt) and other.stage == seat.stage:
                done -= {number for number in done if other.bits >> number & 1}
        if self.rng.random() < 0.2:
            done = set(self.rng.sample(range(first, first + own), self.rng.randint(1, own)))
        if not done:
            return None
        return StageReceipt(
            network=GENESIS.id, run=rules.run, round=opened.round, account=seat.account, stage=seat.stage,
            state_in=opened.state, update=blob(0), tokens=len(done) * 2 * 700, slots=(start, 2 * len(done)),
            served=bitmap(done, slots // 2), loss=0, leaves="00" * 32, signature="00" * 64,
        )  # type: ignore[arg-type]  # fmt: skip

    def _stage_settle(self, rules: RunRules, opened: StageOpen) -> Entry:
        named = sorted(rules.receipts)
        if self.rng.random() < 0.2:
            named = sorted(self.rng.sample(named, self.rng.randint(0, len(named))))
        states = tuple(blob(self.rng.random()) for _ in range(3))
        return StageSettle(round=opened.round, receipts=tuple(named), states=states, state=run_state(states))
