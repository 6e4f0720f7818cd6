"""Which log, entry or account the words on the command line mean; where none fits, the likely one is named.

IO: reads the store it is given.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ledger.errors import StoreUnreadable

if TYPE_CHECKING:
    from ledger.store.store import Store

_BATCH = 1024


class Found(NamedTuple):
    """One stored entry."""

    origin: str
    """Its log."""
    at: int
    """Its place there."""
    data: bytes
    """Its bytes."""


def choose(kind: str, name: str, names: Mapping[str, str], way_out: str) -> str:
    """The value of the one key that is `name` or begins so; several keys may have one value.

    Raises:
        StoreUnreadable: none fits, or several with different values.
    """
    name = name.removesuffix("…")
    if name in names:
        return names[name]
    found = {value: key for key, value in names.items() if name and key.startswith(name)}
    if len(found) == 1:
        return next(iter(found))
    if found:
        some = ", ".join(f"{key[:20]}…" for key in sorted(found.values())[:3])
        raise StoreUnreadable(f"{kind} {name!r}: {len(found)} begin so ({some}); give more of it")
    heads = {key[: max(8, len(name))] for key in names}
    close = difflib.get_close_matches(name, heads, 1) if len(name) >= 4 else []
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise StoreUnreadable(f"{kind} {name[:80]!r}: there is none; {guess}{way_out}")


def find_log(store: "Store", name: str) -> str:
    """The origin of the log that an origin, an account, "run/" and an id, an id alone, or a beginning of one means."""
    names: dict[str, str] = {}
    for origin in store.origins():
        owner = store.genesis.terms.owner(origin)
        names |= {origin: origin, owner: origin, owner.removeprefix("run/"): origin}
    return choose("log", name, names, f"forge-ledger show lists all {len(store.origins())}")


def find_run(store: "Store", name: str) -> str:
    """The id of the run that an id, "run/" and an id, or a beginning of one means."""
    runs = [owner[4:] for owner in map(store.genesis.terms.owner, store.origins()) if owner.startswith("run/")]
    return choose("run", name.removeprefix("run/"), {run: run for run in runs}, "forge-ledger runs lists all")


def find_entry(store: "Store", name: str) -> Found:
    """The entry that LOG:INDEX, the beginning of its leaf hash, or of a receipt's update id means.

    Raises:
        StoreUnreadable: none or several fit.
    """
    log, colon, index = name.rpartition(":")
    if colon:
        origin = find_log(store, log)
        size = store.size(origin)
        if not re.fullmatch("0|[1-9][0-9]{0,8}", index) or int(index) >= size:
            raise StoreUnreadable(f"entry {name!r}: there is no entry {index!r}; this log has 0 to {size - 1}")
        return Found(origin, int(index), store.entries(origin, int(index), int(index) + 1)[0])
    name = name.removesuffix("…")
    if not re.fullmatch("[0-9a-f]{4,64}(-[0-9]{0,16})?", name):
        wanted = "LOG:INDEX, or at least 4 digits of an entry's leaf hash or of a receipt's update id"
        raise StoreUnreadable(f"entry {name[:80]!r}: wanted {wanted}")
    found = list(_matching(store, name))
    if len(found) == 1:
        return found[0]
    if not found:
        raise StoreUnreadable(f"entry {name!r}: no leaf hash and no update id begins so; see forge-ledger log LOG")
    places = ", ".join(f"{store.genesis.terms.owner(item.origin)[:16]}…:{item.at}" for item in found[:3])
    raise StoreUnreadable(f"entry {name!r}: {len(found)} entries fit ({places}); give more of it, or LOG:INDEX")


def _matching(store: "Store", name: str) -> Iterator[Found]:
    from ledger.merkle import leaf_hash

    update = b'"update":"' + name.encode()
    for origin in store.origins():
        for start in range(0, store.size(origin), _BATCH):
            for index, data in enumerate(store.entries(origin, start, start + _BATCH), start):
                if update in data or leaf_hash(data).hex().startswith(name):
                    yield Found(origin, index, data)
