"""`forge-peer demo`: the main job from an empty folder to a verified model, with real daemons, shown live.

Three daemons form a network; a run starts with two members, the third joins in mid-run, one is killed and comes back;
the model is exported and speaks; the ledger verifies and a forged copy does not. No process is left behind.

IO: below the demo's folder, daemons, standard output.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from peer.cli.client import run_path
from peer.cli.screen import screen
from peer.cli.view import RunView, credits, nats
from peer.demo.peers import DemoFailed, DemoPeer, program, run_json, yard
from peer.demo.plan import DemoOptions, make_folder
from peer.demo.proof import fault_is_named, final_states, ledgers_verify, tamper
from peer.demo.story import THREADS, Story, journal, wait_until
from peer.errors import ForgeError

SETTLE_S = 20.0
PROMPT = "In the year 1300 the"
MAX_STALL = 5.0
"""On few cores a newcomer's start takes its share of them; a blocked run would take far longer."""
@dataclass(kw_only=True)
class Demo:
    """One performance."""

    options: DemoOptions
    """As given."""
    folder: Path
    """Holds homes, logs, model and the forged copy."""
    started: float = field(default_factory=time.monotonic)
    """Monotonic seconds."""
    peers: list[DemoPeer] = field(default_factory=list)
    """In the order of their numbers."""
    checks: dict[str, bool] = field(default_factory=dict)
    """What had to hold, and whether it did."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The summary."""

    def say(self, text: str) -> None:
        """A step, with the time since the start."""
        click.echo(f"[{time.monotonic() - self.started:6.1f} s] {text}")

    @property
    def first(self) -> DemoPeer:
        """The peer that made the network and leads the run."""
        return self.peers[0]

    @property
    def network_file(self) -> Path:
        """What every other peer is given."""
        return self.first.home / "network.json"

    def play(self) -> None:
        """From nothing to the summary. Raises ForgeError when something cannot go on."""
        count = self.options.num_peers
        self.peers = [DemoPeer(number=n, home=self.folder / f"peer-{n}") for n in range(1, count + 1)]
        with yard(self.peers):
            self.form_network()
            self.train(self.submit())
            self.take_home()
            self.stop()
        self.prove()

    def form_network(self) -> None:
        """The first peer makes the network, all but the last join it."""
        made = run_json("forge-peer", "network", "create", "--home", self.first.home, "--name", "demo")
        self.say(f"▸ peer 1 made the network {made['network'][:16]}")
        options = ("--threads", THREADS, "--device", "cpu")
        self.first.start(*options, "--name", self.first.label)
        self.first.wait_ready()
        self.say(f"▸ {self.first.label} runs: account {self.first.account[:8]}, {self.first.address}")
        others = self.peers[1:-1]
        join = ("--network", self.network_file, "--bootstrap", self.first.address)
        for peer in others:
            peer.start(*join, *options, "--name", peer.label)
        for peer in others:
            peer.wait_ready()
            self.say(f"▸ {peer.label} runs: account {peer.account[:8]}, {peer.address}")
        known = {peer.account for peer in self.peers[:-1]}

        def met() -> bool:
            return known <= {node["account"] for node in self.first.client.get("/nodes")} | {self.first.account}

        if not wait_until(met, SETTLE_S):
            raise DemoFailed("the peers do not find each other", f"see {self.first.log}")
        self.say(f"▸ {len(known)} peers found each other")

    def submit(self) -> str:
        """Peer 1 submits the run; gives its id."""
        spec = self.folder / "demo.yaml"
        spec.write_text(self.options.spec(), "utf-8")
        self.say(f"▸ forge-peer submit {spec} --home {self.first.home}")
        submitted = run_json("forge-peer", "submit", spec, "--home", self.first.home)
        self.say(f"▸ run {submitted['run'][:16]} is submitted")
        return str(submitted["run"])

    def train(self, run_id: str) -> None:
        """The story of the run, on the screen; then everybody's last state."""
        names = {peer.account: peer.label for peer in self.peers if peer.account}
        with screen(RunView(run=run_id, names=names)) as shown:
            story = Story(
                run=run_id,
                peers=self.peers,
                network_file=self.network_file,
                screen=shown,
                names=names,
            )
            story.tell()
        wait_until(lambda: all(self.is_done(peer, run_id) for peer in self.peers), SETTLE_S)
        states = final_states(self.peers, run_id)
        losses = [row.loss for row in story.rows if row.loss is not None]
        validations = [event["validation"] for event in journal(self.first, run_id) if event.get("validation")]
        self.facts |= {
            "run": run_id,
            "peers": len(self.peers),
            "rounds": len(story.rows),
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if losses else None,
            "validation_loss": validations[-1] if validations else None,
            "receipts": sum(row.members for row in story.rows),
            "tokens": sum(row.tokens for row in story.rows),
            "joined_at_round": story.joined_round or None,
            "killed_at_round": story.killed_round or None,
            "rejoined_at_round": story.back_round or None,
            "join_stall": round(story.stall(), 2),
            "state_ids": states,
            "state_ids_equal": len(set(states.values())) == 1,
            "caught_up": [event for event in journal(story.victim, run_id) if event["event"] == "caught_up"][-1:],
        }
        self.checks |= {
            "every round was settled": len(story.rows) == self.options.wanted_rounds,
            "the loss fell": bool(losses) and losses[-1] < losses[0],
            "a validation loss was measured": bool(validations),
            "the last peer joined in mid-run": bool(story.joined_round),
            "joining did not stall the others": 0 < story.stall() <= MAX_STALL,
            "a member was killed in mid-round": story.killed_in_mid_round(),
            "the others went on without it": story.others_went_on(),
            "the kill left no orphan": not story.orphans,
            "the killed member came back": bool(story.back_round),
            "all members hold the same state": self.facts["state_ids_equal"],
        }

    def is_done(self, peer: DemoPeer, run_id: str) -> bool:
        """Whether a peer has seen the close and taken its credits."""
        closed = peer.client.get(run_path(run_id))["phase"] == "closed"
        return bool(closed and peer.client.get("/tokens/balance/me")["claimable"] == 0)

    def take_home(self) -> None:
        """Exports the model, lets it speak, asks for the credits."""
        model = self.folder / "model"
        home, run_id = self.first.home, self.facts["run"]
        exported = run_json("forge-peer", "export", run_id, "--to", model, "--home", home)
        self.say(f"▸ the model lies in {model}: {', '.join(exported['files'])}")
        checked = run_json("forge-ledger", "check", model, "--network", home / "network.json")
        self.say(f"▸ anybody can check offline that its weights are the state after round {checked['card']['round']}")
        words = ("--prompt", PROMPT, "--tokens", 48, "--temperature", 0.5, "--home", home)
        text = " ".join((PROMPT + str(run_json("forge-peer", "generate", run_id, *words)["text"])).split())
        self.say(f"▸ it says: {text} …")
        balances = {
            peer.account: run_json("forge-peer", "credits", "balance", "--home", peer.home) for peer in self.peers
        }
        owned = {account: answer["balance"] for account, answer in balances.items()}
        self.facts |= {"model_folder": str(model), "text": text, "credits": owned}
        self.checks["the model speaks"] = len(text) > len(PROMPT)
        self.checks["the model is proven"] = checked["ok"] is True
        self.checks["the model is a Hugging Face folder"] = (model / "config.json").is_file()
        self.checks["every member earned credits"] = all(owned.values())

    def stop(self) -> None:
        """Every daemon ends cleanly."""
        for peer in self.peers:
            peer.ask_to_stop()
        ended = [peer.stop() for peer in self.peers]
        self.checks["every daemon ended cleanly"] = all(ended)
        self.say("▸ all daemons ended")

    def prove(self) -> None:
        """The ledgers verify; a copy with one changed byte does not."""
        sound = ledgers_verify(self.peers)
        self.say(f"▸ forge-ledger verify: {', '.join(f'{label} sound' for label, ok in sound.items() if ok)}")
        forged = self.folder / "forged-ledger.db"
        origin, index = tamper(self.first.home / "ledger.db", forged)
        named, words = fault_is_named(forged, self.network_file, origin, index)
        self.say(f"▸ one byte of a receipt changed in a copy; forge-ledger verify says: {words}")
        self.facts |= {"ledger_ok": all(sound.values()), "tamper_detected": named}
        self.checks["the ledgers verify"] = all(sound.values())
        self.checks["the forged byte is named"] = named
        self.checks["no process is left"] = not [pid for peer in self.peers for pid in peer.orphans()]

    def end(self) -> bool:
        """Says what held, where everything lies and what to try next; whether all held."""
        failed = [name for name, held in self.checks.items() if not held]
        self.facts |= {"checks": self.checks, "ok": not failed, "seconds": round(time.monotonic() - self.started, 1)}
        click.echo()
        for name, held in self.checks.items():
            click.echo(f"  {'✓' if held else '✗'} {name}")
        facts = self.facts
        loss = f"loss {nats(facts['first_loss'])} → {nats(facts['last_loss'])}"
        click.echo(f"\n{loss}, validation {nats(facts['validation_loss'])}, {facts['receipts']} receipts, ", nl=False)
        click.echo(f"{facts['tokens']:,} tokens, {facts['seconds']} s")
        for peer in self.peers:
            click.echo(f"  {peer.label} {peer.account[:8]} owns {credits(facts['credits'][peer.account])} credits")
        click.echo(f"\nEverything lies in {self.folder}. Try next:")
        # As long as .venv is not activated, the short names mean nothing in the user's shell.
        names = ("forge-ledger", "forge-peer")
        ledger, peer_command = (name if shutil.which(name) else program(name)[-1] for name in names)
        click.echo(f"  {ledger} verify --home {self.first.home}")
        click.echo(f"  {ledger} verify --store {self.folder / 'forged-ledger.db'} --network {self.network_file}")
        if self.options.keep:
            click.echo(f"  {peer_command} start --home {self.first.home}   # then: forge-peer generate --prompt …")
        code = f"pipeline('text-generation', '{facts['model_folder']}')('{PROMPT}')"
        click.echo(f'  {sys.executable} -c "from transformers import pipeline; print({code})"')
        return not failed


def run_demo(options: DemoOptions) -> int:
    """Performs the demo; exit status 0 only if everything held."""
    options.spec()  # an unusable corpus is told before anything is made
    demo = Demo(options=options, folder=make_folder(options.folder))
    try:
        demo.play()
    except ForgeError:
        click.echo(f"the demo failed; everything is kept in {demo.folder}", err=True)
        raise
    finally:
        if options.summary is not None:
            demo.facts.setdefault("ok", False)
            options.summary.write_text(json.dumps(demo.facts | {"checks": demo.checks}, indent=1) + "\n", "utf-8")
    held = demo.end()
    if options.summary is not None:
        options.summary.write_text(json.dumps(demo.facts, indent=1) + "\n", "utf-8")
    if held and not options.keep:
        for peer in demo.peers:
            for bulky in ("blobs", "runs"):
                shutil.rmtree(peer.home / bulky, ignore_errors=True)
    return 0 if held else 1
