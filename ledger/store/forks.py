"""Proofs looked for: whether a head that is offered and the ones that are stored show that a key contradicted itself.

Pure: no IO.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from ledger import notes
from ledger.errors import EvidenceInvalid, NoteInvalid
from ledger.evidence import Evidence, build, build_split
from ledger.genesis import Genesis
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint, Note


class Fork:
    """A head that does not fit what is stored of its log, with the entries that came with it."""

    def __init__(self, tree: Tree, note: Note, start: int, entries: Sequence[bytes], begin: bytes) -> None:
        """`tree` is that of the stored entries; `begin` is entry 0 of a run's log, empty for an account's."""
        self._tree = tree
        self._note = note
        self._head = notes.checkpoint(note)
        self._start = start
        self._entries = entries
        self._begin = begin
        self._branch: Tree | None = None

    def equivocation(self, known: Iterable[bytes], writers: Sequence[str]) -> Evidence | None:
        """The evidence that one writer signed the head and one of these stored ones, as far as it can be shown."""
        for data in known:
            with suppress(EvidenceInvalid, NoteInvalid):
                if notes.verify_head(notes.parse(data), writers) in self._signers(writers):
                    return build(self._larger(data), data, self._note.encode(), self._begin)
        return None

    def split(self, known: bytes, genesis: Genesis) -> Evidence | None:
        """The evidence that more than f witnesses cosigned the head and this stored certificate."""
        with suppress(EvidenceInvalid, NoteInvalid):
            return build_split(self._larger(known), known, self._note.encode(), genesis)
        return None

    def _signers(self, writers: Sequence[str]) -> list[str]:
        found = []
        for key in writers:
            with suppress(NoteInvalid):
                found.append(notes.verify_head(self._note, [key]))
        return found

    def _larger(self, data: bytes) -> Tree:
        """The tree of the larger of the two heads."""
        known = notes.checkpoint(notes.parse(data))
        larger = max(known, self._head, key=lambda head: head.size)
        return self._tree if known.size == self._head.size or _is_of(self._tree, larger) else self._offered()

    def _offered(self) -> Tree:
        """The tree of what is stored up to where the offered entries begin, and of those.

        Raises:
            EvidenceInvalid: that is not the head's.
        """
        if self._branch is None:
            frontier = self._tree.frontier(min(self._start, self._tree.size))
            leaves = [leaf_hash(data) for data in self._entries[: self._head.size - frontier.size]]
            for leaf in leaves:
                frontier.append(leaf)
            if frontier.root != self._head.root:  # before all of it is hashed again
                raise EvidenceInvalid("the entries given are not those of the head")
            stem = (self._tree.node(0, index) for index in range(frontier.size - len(leaves)))
            self._branch = Tree([*stem, *leaves])
        return self._branch


def _is_of(tree: Tree, head: Checkpoint) -> bool:
    return head.size <= tree.size and tree.root(head.size) == head.root
