"""Funding a run and claiming what is owed: each step once, whatever a crash interrupts."""

from __future__ import annotations

import asyncio

import pytest

from ledger.entries import Begin, Close, Recv, Send
from ledger.fold.fold import conservation
from peer.errors import RunError
from peer.ledger.credits import nonce
from tests.peer.ledger_kit import SUPPLY, Ledgers


async def kinds(ledgers: Ledgers, origin: str) -> list[str]:
    """The certified entries' types."""
    return [entry.type for entry in await ledgers.alice.logs.entries(origin, 0)]


async def test_a_run_is_begun_and_funded_once(ledgers: Ledgers) -> None:
    alice, spec = ledgers.alice, ledgers.spec()
    run, origin = ledgers.run(spec)
    for _ in range(2):
        await alice.credits.begin(run, spec, 100)
    assert await kinds(ledgers, origin) == ["begin", "recv"]
    assert await kinds(ledgers, alice.logs.origin) == ["send"]
    ledger = await alice.logs.ledger()
    assert ledger.runs[run].balance == 100
    assert await alice.credits.balance(alice.account) == {"balance": SUPPLY - 100, "claimable": 0}
    conservation(ledger)


async def test_a_run_without_a_budget_is_begun_and_not_funded(ledgers: Ledgers) -> None:
    alice, spec = ledgers.alice, ledgers.spec()
    run, origin = ledgers.run(spec)
    await alice.credits.begin(run, spec, 0)
    assert await kinds(ledgers, origin) == ["begin"]
    assert await kinds(ledgers, alice.logs.origin) == []


@pytest.mark.parametrize("done", [1, 2, 3])
async def test_a_crash_before_certification_makes_no_step_happen_twice(ledgers: Ledgers, done: int) -> None:
    alice, spec = ledgers.alice, ledgers.spec()
    run, origin = ledgers.run(spec)
    own = alice.logs.origin
    steps = [(origin, Begin(spec=spec)), (own, Send(to=f"run/{run}", amount=100, memo="run budget"))]
    for place, entry in steps[:done]:
        alice.store.append(place, [entry], alice.key)
        if done == 3 or place == origin:
            await alice.logs.certify(place)
    if done == 3:
        certificate = alice.store.certified(own)
        assert certificate is not None
        alice.store.append(origin, [Recv(origin=own, index=0, size=1, root=certificate.root)], alice.key)
    alice.crash()
    await alice.credits.begin(run, spec, 100)
    assert await kinds(ledgers, origin) == ["begin", "recv"]
    assert await kinds(ledgers, own) == ["send"]
    assert (await alice.logs.ledger()).runs[run].balance == 100


async def test_what_cannot_be_paid_is_refused_with_figures(ledgers: Ledgers) -> None:
    await ledgers.alice.credits.require(SUPPLY)
    with pytest.raises(RunError) as refused:
        await ledgers.alice.credits.require(SUPPLY + 1)
    assert refused.value.code == "FP-430"
    assert f"{SUPPLY} micro-credits to spend, the run needs {SUPPLY + 1}" in refused.value.message
    assert refused.value.fix


async def closed_run(ledgers: Ledgers, name: str) -> None:
    """A run of Alice's that was funded with 100 and closed."""
    alice, spec = ledgers.alice, ledgers.spec(name)
    run, origin = ledgers.run(spec)
    await alice.credits.begin(run, spec, 100)
    await alice.logs.append(origin, [Close(state=spec["blobs"]["state"], reason="enough")])


async def test_the_rest_of_a_closed_run_comes_back_to_its_funder(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    await closed_run(ledgers, "0")
    assert await alice.credits.balance(alice.account) == {"balance": SUPPLY - 100, "claimable": 100}
    assert await alice.credits.claim() == 100
    assert await alice.credits.claim() == 0
    assert await alice.credits.balance(alice.account) == {"balance": SUPPLY, "claimable": 0}


async def test_claims_at_the_same_time_claim_each_debt_once(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    await closed_run(ledgers, "0")
    await closed_run(ledgers, "1")
    assert sorted(await asyncio.gather(alice.credits.claim(), alice.credits.claim())) == [0, 200]
    assert (await alice.credits.balance(alice.account))["balance"] == SUPPLY
    assert (await kinds(ledgers, alice.logs.origin)).count("recv") == 2


async def test_a_claim_that_a_crash_interrupted_is_finished_and_not_repeated(ledgers: Ledgers) -> None:
    alice = ledgers.alice
    await closed_run(ledgers, "0")
    (recv,) = alice.store.claims(alice.account)
    alice.store.append(alice.logs.origin, [recv], alice.key)
    alice.crash()
    assert await alice.credits.claim() == 0
    assert await alice.credits.balance(alice.account) == {"balance": SUPPLY, "claimable": 0}


async def test_credits_that_another_account_sent_are_claimed(ledgers: Ledgers) -> None:
    alice, bob = ledgers.alice, ledgers.more("bob")
    await alice.logs.append(alice.logs.origin, [Send(to=bob.account, amount=5, memo="")])
    assert await bob.credits.claim() == 0, "not here yet"
    await bob.replication.pull(alice.network.peer_id)
    assert await bob.credits.claim() == 5
    assert await bob.credits.balance(bob.account) == {"balance": 5, "claimable": 0}


def test_two_runs_of_one_spec_are_two_runs() -> None:
    assert len({nonce() for _ in range(100)}) == 100
    assert len(nonce()) == 32
