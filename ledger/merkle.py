"""RFC 6962 Merkle trees: roots, inclusion proofs and consistency proofs.

`leaves` are leaf hashes (32 bytes each) throughout: make them with `leaf_hash(data)`. The empty tree has the root
SHA256("").
`Frontier` streams a root in O(log n) memory; `Tree` keeps every complete subtree (64 bytes per leaf) and so answers any
root or proof of any earlier size in O(log n).

Pure: no IO.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

from .errors import ProofInvalid

EMPTY_ROOT = sha256(b"").digest()
"""The root of the tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """SHA256(00 ‖ data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA256(01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


def root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that leaf `index` is in the tree over `leaves`."""
    return Tree(leaves).inclusion_proof(index, len(leaves))


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the tree over the first `old_size` leaves is a prefix of the tree over all of them."""
    return Tree(leaves).consistency_proof(old_size, len(leaves))


class Frontier:
    """The roots of the complete subtrees on the right edge: enough to append and to give the root."""

    __slots__ = ("_edge", "size")

    def __init__(self, size: int = 0, edge: Iterable[bytes] = ()) -> None:
        self.size = size
        self._edge = list(edge)  # one root per bit set in the size, widest first

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes: in a row, which is quicker than one by one."""
        size, edge = self.size, self._edge
        for leaf in leaves:
            if len(leaf) != 32:
                raise ValueError(f"a leaf hash has 32 bytes, got {len(leaf)}; use leaf_hash(data)")
            rest = size
            while rest & 1:
                leaf = sha256(b"\x01" + edge.pop() + leaf).digest()
                rest >>= 1
            edge.append(leaf)
            size += 1
            self.size = size

    @property
    def root(self) -> bytes:
        """The root of what was appended."""
        return _join(self._edge)

    def copy(self) -> "Frontier":
        """An independent copy, to try leaves on."""
        return Frontier(self.size, self._edge)


class Tree:
    """An append-only tree that answers roots and proofs of every size it ever had."""

    __slots__ = ("_levels", "size")

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._levels: list[bytearray] = [bytearray()]  # level l, 32 bytes per complete subtree of 2^l leaves
        for leaf in leaves:
            self.append(leaf)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        if len(leaf) != 32:
            raise ValueError(f"a leaf hash has 32 bytes, got {len(leaf)}; use leaf_hash(data)")
        levels = self._levels
        levels[0] += leaf
        count, level = self.size, 0
        while count & 1:
            below = levels[level]
            level += 1
            if level == len(levels):
                levels.append(bytearray())
            levels[level] += sha256(b"\x01" + below[-64:]).digest()
            count >>= 1
        self.size += 1

    def truncate(self, size: int) -> None:
        """Forget the leaves from `size` on."""
        if not 0 <= size <= self.size:
            raise ValueError(f"size {size} is outside 0..{self.size}")
        for level, hashes in enumerate(self._levels):
            del hashes[32 * (size >> level) :]
        self.size = size

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree over leaves [index·2^level, (index+1)·2^level)."""
        return bytes(self._levels[level][32 * index : 32 * index + 32])

    def root(self, size: int | None = None) -> bytes:
        """The root at `size`, the present one if not given."""
        size = self.size if size is None else size
        if not 0 <= size <= self.size:
            raise ValueError(f"size {size} is outside 0..{self.size}")
        return self._span(0, size) if size else EMPTY_ROOT

    def frontier(self, size: int) -> Frontier:
        """The frontier at `size`, to try leaves on."""
        if not 0 <= size <= self.size:
            raise ValueError(f"size {size} is outside 0..{self.size}")
        return Frontier(size, self._edge(0, size))

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """RFC 6962 section 2.1.1: PATH(index, D[size])."""
        if not 0 <= index < size <= self.size:
            raise ValueError(f"no leaf {index} in a tree of {size} (there are {self.size})")
        proof: list[bytes] = []
        start, end = 0, size
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                proof.append(self._span(middle, end))
                end = middle
            else:
                proof.append(self._span(start, middle))
                start = middle
        return proof[::-1]

    def consistency_proof(self, old_size: int, size: int) -> list[bytes]:
        """RFC 6962 section 2.1.2: PROOF(old_size, D[size])."""
        if not 0 < old_size <= size <= self.size:
            raise ValueError(f"no tree of {old_size} in a tree of {size} (there are {self.size})")
        if old_size == size:
            return []
        proof: list[bytes] = []
        start, end = 0, size
        while end != old_size:
            middle = start + _split(end - start)
            if old_size <= middle:
                proof.append(self._span(middle, end))
                end = middle
            else:
                proof.append(self._span(start, middle))
                start = middle
        if start:  # the old tree ends with a subtree that is not all of it: begin with that one
            proof.append(self._span(start, end))
        return proof[::-1]

    def _span(self, start: int, end: int) -> bytes:
        """The hash over leaves [start, end) of a subtree that begins at a multiple of its own width."""
        return _join(list(self._edge(start, end)))

    def _edge(self, start: int, end: int) -> Iterator[bytes]:
        """The roots of the complete subtrees, widest first, that together cover [start, end)."""
        while start < end:
            level = (end - start).bit_length() - 1
            yield self.node(level, start >> level)
            start += 1 << level


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash `leaf` is at `index` in the tree of `size` leaves with this root (RFC 9162, 2.1.3.2).

    Raises:
        ProofInvalid: it is not, or the proof is not exactly the one there is.
    """
    if not 0 <= index < size:
        raise ProofInvalid(f"index {index} is not below the size {size}")
    if len(leaf) != 32:
        raise ProofInvalid(f"the leaf hash has {len(leaf)} bytes, wanted 32")
    node, at, last = leaf, index, size - 1
    for item in _hashes(proof):
        if last == 0:
            raise ProofInvalid("the proof is too long")
        if at & 1 or at == last:
            node = node_hash(item, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, item)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofInvalid("the proof is too short")
    if node != root:
        raise ProofInvalid(f"the proof leads to root {node.hex()[:16]}…, wanted {root.hex()[:16]}…")


def verify_consistency(old_size: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree (old_size, old_root) is a prefix of the tree (size, root) (RFC 9162, 2.1.4.2).

    Raises:
        ProofInvalid: it is not, or the proof is not exactly the one there is.
    """
    if not 0 < old_size <= size:
        raise ProofInvalid(f"old size {old_size} is not within 1..{size} (every tree extends the empty one)")
    if old_size == size:
        if proof:
            raise ProofInvalid("the proof should be empty")
        if old_root != root:
            raise ProofInvalid("two roots of one size")
        return
    path = list(_hashes(proof))
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        raise ProofInvalid("the proof is empty")
    at, last = old_size - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for item in path[1:]:
        if last == 0:
            raise ProofInvalid("the proof is too long")
        if at & 1 or at == last:
            old, new = node_hash(item, old), node_hash(item, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, item)
        at, last = at >> 1, last >> 1
    if last:
        raise ProofInvalid("the proof is too short")
    if old != old_root:
        raise ProofInvalid(f"the proof leads to old root {old.hex()[:16]}…, wanted {old_root.hex()[:16]}…")
    if new != root:
        raise ProofInvalid(f"the proof leads to root {new.hex()[:16]}…, wanted {root.hex()[:16]}…")


def _split(size: int) -> int:
    """The largest power of two below size (size > 1)."""
    return 1 << ((size - 1).bit_length() - 1)


def _join(parts: Sequence[bytes]) -> bytes:
    """The root over subtrees of falling width."""
    if not parts:
        return EMPTY_ROOT
    node = parts[-1]
    for part in reversed(parts[:-1]):
        node = node_hash(part, node)
    return node


def _hashes(proof: Sequence[bytes]) -> Sequence[bytes]:
    if any(len(item) != 32 for item in proof):
        raise ProofInvalid("the proof holds something that is not a 32-byte hash")
    return proof
