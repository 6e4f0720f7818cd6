"""The witness: cosigns a head only after storing and checking all it covers, and never two that contradict each other.

The promise (the newest head cosigned of each log) is compared, set and on disk before the signature exists, so a crash
at any point leaves either no cosignature or one that the promise covers.

IO: through the store.
"""

from collections.abc import Sequence

from . import notes
from .errors import KeyInvalid
from .genesis import Genesis
from .keys import PrivateKey
from .store.store import Store
from .terms import Bid, Term


class Witness:
    """One of the network's witnesses, at work on this machine."""

    def __init__(self, store: Store, genesis: Genesis, key: PrivateKey, name: str) -> None:
        if (name, key.public) not in genesis.witnesses:
            raise KeyInvalid(f"witness {name!r} with key {key.public[:16]}… is not in the genesis of {genesis.name!r}")
        self._store = store
        self._key = key
        self.name = name
        """The witness's name in the genesis."""

    def cosign(self, origin: str, start: int, entries: Sequence[bytes], head_note: bytes, now_s: int) -> bytes:
        """The cosignature line for a head of which the entries from `start` on are given.

        Asking again for a head that is still consistent gives a line again.

        Raises:
            Behind: send the entries from `size` on; Conflict, Frozen, NoteInvalid, EntryInvalid: it is not cosigned.
        """
        self._store.promise(origin, start, entries, head_note)
        return notes.cosign(head_note, self.name, self._key, now_s)

    def give(self, bid: Bid, *, idle: bool) -> Term:
        """The term of a run's log after this bid; whether it was given, it tells itself.

        Args:
            bid: a leader's bid.
            idle: whether the leader of the present term is silent for long, or gone.

        Raises:
            SignatureInvalid, EntryInvalid: the bid is no good; KeyInvalid: its leader may not write the log;
            Behind: the log is not known here.
        """
        bid.verify()
        return self._store.give(bid, idle=idle)
