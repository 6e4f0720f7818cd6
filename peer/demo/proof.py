"""The demo's proofs: the ledger verifies, a changed byte is found and named, all members hold the same state.

IO: runs `forge-ledger`, copies a ledger store and changes a byte in the copy.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from peer.demo.peers import DemoFailed, DemoPeer, run_json
from peer.errors import ForgeError


def ledgers_verify(peers: Sequence[DemoPeer]) -> dict[str, bool]:
    """Whether `forge-ledger verify` finds each peer's own replica sound."""
    return {peer.label: bool(run_json("forge-ledger", "verify", "--home", peer.home)["ok"]) for peer in peers}


def tamper(store: Path, copy: Path) -> tuple[str, int]:
    """Copies a ledger store and changes one byte of a receipt in the copy; gives the log's origin and the entry."""
    copy.unlink(missing_ok=True)
    uri = f"file:{store}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")
        rows = target.execute(
            "SELECT origin, log, idx, data FROM entry JOIN log ON log.id = entry.log "
            "WHERE instr(CAST(data AS TEXT), '\"type\":\"receipt\"') ORDER BY log, idx"
        ).fetchall()
        if not rows:
            raise DemoFailed(f"{store}: has no receipt")
        origin, log, index, data = rows[len(rows) // 2]
        at = data.index(b'"update":"') + len(b'"update":"')
        changed = data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]
        with target:
            target.execute("UPDATE entry SET data = ? WHERE log = ? AND idx = ?", (changed, log, index))
    return str(origin), int(index)


def fault_is_named(store: Path, network_file: Path, origin: str, index: int) -> tuple[bool, str]:
    """Whether `forge-ledger verify` refuses the store and names that entry of that log; and its words."""
    words = ("verify", "--store", store, "--network", network_file)
    report: dict[str, Any] = run_json("forge-ledger", *words, expect=1)
    for fault in report["faults"]:
        if fault["origin"] == origin and fault["entry"] == index:
            return True, re.sub(r"([0-9a-f]{12})[0-9a-f]{20,}", r"\1…", str(fault["message"]))
    return False, str(report["faults"])


def final_states(peers: Sequence[DemoPeer], run: str) -> dict[str, str]:
    """The state id that each peer itself holds at the end, by account."""
    states = {}
    for peer in peers:
        try:
            job = peer.client.get(f"/jobs/{run}")
        except ForgeError as exc:
            raise DemoFailed(f"{peer.label}: does not tell its state: {exc.message}", f"see {peer.log}") from exc
        states[peer.account] = str(job.get("held") or job["state"])
    return states
