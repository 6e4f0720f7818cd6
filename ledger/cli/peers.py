"""What `verify --peers` does: hold the ledger against what live witnesses certify, and keep proofs of contradictions.

IO: reads a store, asks the network through the plug-in `live`, writes evidence files and to the terminal.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledger.errors import LedgerError, StoreUnreadable

from .base import write_file

if TYPE_CHECKING:
    from ledger.live import Tail, WitnessView
    from ledger.merkle import Tree
    from ledger.store.store import Store
    from ledger.verify.compare import Comparison, Contradiction, Here
    from ledger.verify.report import Report

NEWER = ("that this is all there is", "that it was not rolled back")
"""What is no longer open once witnesses were asked and certify nothing later."""
SHOWN = 10
"""Logs that are listed one by one."""


def tree_of(store: "Store", origin: str, size: int) -> "Tree":
    """The hashes of the first entries of a log."""
    from ledger.merkle import Tree, leaf_hash

    tree = Tree()
    for start in range(0, size, 1024):
        for data in store.entries(origin, start, min(start + 1024, size)):
            tree.append(leaf_hash(data))
    return tree


def here_of(store: "Store", origin: str) -> "Here | None":
    """A log as it is certified in the store."""
    from ledger import notes
    from ledger.archive import exporting as archive
    from ledger.verify.compare import Here

    certificate = store.certified(origin)
    if certificate is None:
        return None

    def tree() -> "Tree":
        return tree_of(store, origin, certificate.size)

    head = notes.checkpoint(notes.parse(certificate.note))
    return Here(head=head, note=certificate.note, writers=archive.writers(store, origin), tree=tree)


def ask_witnesses(
    store: "Store", bootstrap: Sequence[str], timeout_s: float, evidence_folder: Path
) -> "tuple[Comparison, list[Path]]":
    """Compare every log with every witness; also the evidence files that were written.

    Raises:
        LedgerError: the network cannot be joined.
    """
    from ledger import live
    from ledger.verify.compare import compare

    plugin = live.live()
    origins = store.origins()
    here = {origin: store.certified(origin) for origin in origins}
    sizes = {origin: found.size if found else 0 for origin, found in here.items()}
    views = plugin.heads(store.genesis, bootstrap, sizes, timeout_s)
    comparison = compare(store.genesis, ((origin, here_of(store, origin)) for origin in origins), views)
    trees: dict[tuple[str, str], Tree] = {}
    if comparison.unproven:
        starts = {origin: 0 for origin, _ in comparison.unproven}
        trees = _resolve(store, comparison, views, plugin.entries(store.genesis, bootstrap, starts, timeout_s))
    files = []
    for item in (*comparison.forks, *comparison.equivocations):
        tree = trees.get((item.origin, item.witness))
        if (file := _keep(store, item, tree, evidence_folder)) is not None:
            files.append(file)
    return comparison, files


def _resolve(
    store: "Store", comparison: "Comparison", views: "dict[str, WitnessView]", tails: "dict[str, dict[str, Tail]]"
) -> "dict[tuple[str, str], Tree]":
    """Tell forks from witnesses that prove nothing, by all entries of the logs in question."""
    from ledger.merkle import Tree, leaf_hash
    from ledger.verify.compare import Contradiction, certified_head

    trees = {}
    for origin, name in comparison.unproven:
        tail, theirs = tails.get(origin, {}).get(name), views[name].heads[origin].certificate
        head, ours = certified_head(store.genesis, origin, theirs), here_of(store, origin)
        assert ours is not None  # else nothing needed a proof
        tree = Tree(map(leaf_hash, tail.entries if tail else ()))
        if tree.size < head.size or tree.root(head.size) != head.root:
            comparison.failed[name] = f"{origin[-20:]}: does not show that its head at {head.size} continues ours"
            comparison.answered = [other for other in comparison.answered if other != name]
        elif tree.root(ours.head.size) != ours.head.root:
            trees[origin, name] = tree
            fork = Contradiction(origin=origin, witness=name, ours=ours.note, theirs=theirs, certified=True)
            comparison.forks.append(fork)
    comparison.unproven = []
    return trees


def _keep(store: "Store", item: "Contradiction", tree: "Tree | None", folder: Path) -> Path | None:
    """Write the evidence of a contradiction; None where there is none that others would accept."""
    from ledger import evidence, notes

    ours, theirs = (notes.checkpoint(notes.parse(note)).size for note in (item.ours, item.theirs))
    whole = tree if tree is not None else tree_of(store, item.origin, max(ours, theirs))
    try:
        if item.certified:
            found = evidence.build_split(whole, item.ours, item.theirs, store.genesis)
        else:
            is_run = store.genesis.terms.owner(item.origin).startswith("run/")
            begin = store.entries(item.origin, 0, 1)[0] if is_run else b""
            found = evidence.build(whole, item.ours, item.theirs, begin)
    except LedgerError:
        return None
    owner = store.genesis.terms.owner(item.origin).replace("/", "-")
    path = folder / f"evidence-{owner[:20]}-{ours}-{theirs}-{item.witness.replace('/', '-')}.json"
    write_file(path, found.encode(), StoreUnreadable)
    return path


def with_witnesses(report: "Report", comparison: "Comparison") -> "Report":
    """The report, with what the witnesses said."""
    from ledger.verify.report import Fault

    faults = tuple(
        Fault(origin=item.origin, entry=None, rule="fork", got=str(item).partition(": ")[2], wanted="one history",
              what="", further=("more than f witnesses signed both",))
        for item in comparison.forks
    )  # fmt: skip
    if faults:
        return replace(report, ok=False, faults=(*report.faults, *faults), proven=())
    many = len(comparison.answered) + len(comparison.failed)
    if not comparison.current:
        return report
    said = f"nothing later is certified by the {len(comparison.answered)} of {many} witnesses that answered just now"
    left = tuple(sentence for sentence in report.not_proven if not sentence.startswith(NEWER))
    return replace(report, proven=(*report.proven, said), not_proven=left)


def print_comparison(comparison: "Comparison", files: Sequence[Path]) -> None:
    """The comparison for people."""
    from ledger.describe import count, short

    say: Callable[[str], None] = click.echo
    many = len(comparison.answered) + len(comparison.failed)
    names = f" ({', '.join(comparison.answered)})" if comparison.answered else ""
    say(f"{len(comparison.answered)} of {many} witnesses answered{names}")
    for name, reason in comparison.failed.items():
        say(f"  {name}: {reason}")
    if comparison.answered:
        say(f"{count(comparison.compared, 'log')} compared with what they certify")
    for title, items in (("FORK", comparison.forks), ("CONTRADICTION", comparison.equivocations)):
        for item in items:
            click.secho(f"{title}: {item}", fg="red", bold=True)
            say(f"  here:\n{_indented(item.ours)}\n  {item.witness}:\n{_indented(item.theirs)}")
    for file in files:
        say(f"evidence for everybody: {file}; forge-ledger evidence --check reads it")
    if comparison.behind:
        be = "is" if len(comparison.behind) == 1 else "are"
        many_logs = count(len(comparison.behind), "log")
        say(f"{many_logs} {be} behind what witnesses certify: a rollback, or simply not synced yet")
        for origin, (here, there, names_) in sorted(comparison.behind.items())[:SHOWN]:
            say(f"  {short(origin)}: {here} entries here, {there} certified by {', '.join(names_)}")
        if len(comparison.behind) > SHOWN:
            say(f"  and {len(comparison.behind) - SHOWN} more")
    if comparison.unknown:
        be = "is" if len(comparison.unknown) == 1 else "are"
        say(f"{count(len(comparison.unknown), 'certified log')} {be} not here")


def _indented(note: bytes) -> str:
    return "\n".join(f"    {line}".rstrip() for line in note.decode().splitlines())
