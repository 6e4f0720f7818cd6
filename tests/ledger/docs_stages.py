"""The worked example of docs/ledger.md, whole: with a run that has stages, computed like the rest of the page.

Pure: no IO.
"""

from typing import Any

from tests.ledger import docs_example
from tests.ledger.docs_example import Key, Network, blob, canonical, leaf, node, sha256

SHARES = (333_333, 666_667)
SLOTS, MICROBATCH, TOKENS = 4, 2, 64


def run_state(states: list[str]) -> str:
    """The id of the run's state."""
    root = node(*(leaf(state.encode()) for state in states))
    return f"{root.hex()}-{sum(int(state[65:]) for state in states)}"


class Staged:
    """The run with two stages."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.before, self.after = (
            [blob(f"stage {stage} {when}\n".encode()) for stage in (0, 1)] for when in ("at first", "after round 1")
        )
        stages = {"microbatch": MICROBATCH, "shares": list(SHARES), "states": self.before}
        blobs = {**net.blobs, "state": run_state(self.before)}
        self.spec = {**net.spec, "blobs": blobs, "name": "staged", "stages": stages}
        self.run = sha256(canonical(self.spec)).hexdigest()

    def receipt_body(self, key: Key, stage: int) -> dict[str, Any]:
        """A member's receipt without its signature."""
        return {
            "account": key.public, "leaves": "cd" * 32, "loss": 3_000_000 * stage, "network": self.net.id, "round": 1,
            "run": self.run, "served": "3", "slots": [0, SLOTS], "stage": stage, "state_in": run_state(self.before),
            "tokens": SLOTS * TOKENS, "type": "stage_receipt", "update": blob(f"update of stage {stage}\n".encode()),
        }  # fmt: skip

    def receipt_input(self, key: Key, stage: int) -> bytes:
        """What the member signs."""
        return b"p2p-llm-forge/stage-receipt/v1\n" + canonical(self.receipt_body(key, stage))

    def receipt(self, key: Key, stage: int) -> bytes:
        """A member's receipt."""
        signature = key.private.sign(self.receipt_input(key, stage)).hex()
        return canonical({**self.receipt_body(key, stage), "signature": signature})


def example() -> dict[str, str]:
    """Every block of the page, by its label, in the page's order."""
    net = Network()
    staged, (alice, bob) = Staged(net), (net.alice, net.bob)
    states = [
        f"{when:<8} {name:<7} {state}"
        for when, ids in (("at first", staged.before), ("after", staged.after))
        for name, state in (("stage 0", ids[0]), ("stage 1", ids[1]), ("run", run_state(ids)))
    ]
    roster = [[alice.public, 0, SLOTS, 0], [bob.public, 0, SLOTS, 1]]
    settle = {
        "receipts": [2, 3], "round": 1, "state": run_state(staged.after), "states": staged.after,
        "type": "stage_settle", "validation": [],
    }  # fmt: skip
    opened = {"roster": roster, "round": 1, "state": run_state(staged.before), "type": "stage_open"}
    earned = [SLOTS * TOKENS * share // 10**6 for share in SHARES]
    return {
        **docs_example.example(),
        "stage states": "\n".join(states),
        "stage spec": canonical(staged.spec).decode(),
        "stage run id": staged.run,
        "stage open": canonical(opened).decode(),
        "stage receipt input": staged.receipt_input(bob, 1).decode(),
        "stage receipt signature": bob.private.sign(staged.receipt_input(bob, 1)).hex(),
        "stage receipts": f"{staged.receipt(alice, 0).decode()}\n{staged.receipt(bob, 1).decode()}",
        "stage settle": canonical(settle).decode(),
        "stage money": f"reserved {SLOTS * TOKENS}\nAlice    {earned[0]}\nBob      {earned[1]}\n"
        f"returned {SLOTS * TOKENS - sum(earned)}",
    }
