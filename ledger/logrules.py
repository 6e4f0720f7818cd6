"""What the rules of all logs have in common, and those of an account's log; `rules` has the others.

Pure: no IO; an `apply` that raises has changed nothing.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from . import keys
from .entries import PREFIX, Entry, Issue, Recv, Send
from .errors import EntryInvalid, KeyInvalid

_is_owner = re.compile(r"(run/)?[0-9a-f]{64}").fullmatch


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the rules and the fold need of a genesis."""

    network: str
    """The genesis id."""
    supply: Mapping[str, int]
    """Micro-credits that accounts own from the start."""
    issuers: Mapping[str, int]
    """Accounts that may issue, each with its total budget in micro-credits."""

    @cached_property
    def _prefix(self) -> str:
        return f"{PREFIX}{self.network[:16]}/"

    def origin(self, owner: str) -> str:
        """The origin line of the log of an account, or of "run/<run id>"."""
        return self._prefix + owner

    def owner(self, origin: str) -> str:
        """Whose log this is: an account, or "run/<run id>".

        Raises:
            EntryInvalid: no log of this network can have that origin.
        """
        owner = origin[len(self._prefix) :]
        if not origin.startswith(self._prefix) or not _is_owner(owner):
            raise EntryInvalid(rule="origin", got=origin[:160], wanted=f"{self.origin('')}<account> or …/run/<run id>")
        return owner


class LogRules(ABC):
    """The state that decides which entry may come next in one log."""

    allowed: ClassVar[tuple[type[Entry], ...]]

    def __init__(self, terms: Terms, owner: str, *, signatures: bool = True) -> None:
        self.terms = terms
        self.owner = owner
        self.size = 0
        """Entries accepted so far."""
        self.signatures = signatures
        """Whether keys and signatures are checked too."""

    @property
    @abstractmethod
    def writers(self) -> tuple[str, ...]:
        """The accounts that may sign this log's heads; empty while unknown."""

    def apply(self, entry: Entry) -> None:
        """Accept the next entry.

        Raises:
            EntryInvalid: the entry may not come next; nothing changed.
        """
        if type(entry) not in self.allowed:
            names = ", ".join(kind.type for kind in self.allowed)
            raise EntryInvalid(rule="type", got=entry.type, wanted=f"one of {names} in this log", index=self.size)
        try:
            self._apply(entry)
        except EntryInvalid as exc:
            raise exc.at(self.size) from exc
        self.size += 1

    @abstractmethod
    def _apply(self, entry: Entry) -> None:
        """Accept an entry of a kind that this log holds."""

    def copy(self) -> Self:
        """An independent copy, to try entries on."""
        return copy(self)

    def check_key(self, account: str) -> None:
        """Check that an account may be registered here.

        Raises:
            EntryInvalid: its key is not of prime order.
        """
        if self.signatures:
            try:
                keys.check_public(account)
            except KeyInvalid as exc:
                raise EntryInvalid(rule="key", got=exc.message, wanted="a key of prime order") from exc

    def check_source(self, recv: Recv) -> str:
        """Whose log a recv claims from.

        Raises:
            EntryInvalid: it is not of this network.
        """
        return self.terms.owner(recv.origin)


class AccountRules(LogRules):
    """An account's log: send, recv, and issue where the genesis allows it."""

    allowed = (Send, Recv, Issue)

    @property
    def writers(self) -> tuple[str, ...]:
        """The account itself."""
        return (self.owner,)

    def apply(self, entry: Entry) -> None:
        """Accept the next entry; any send may come after the first, and most entries are sends.

        Raises:
            EntryInvalid: the entry may not come next; nothing changed.
        """
        if type(entry) is Send and self.size:
            self.size += 1
        else:
            super().apply(entry)

    def _apply(self, entry: Entry) -> None:
        if self.size == 0:
            self.check_key(self.owner)
        if isinstance(entry, Recv):
            self.check_source(entry)
        elif isinstance(entry, Issue) and self.owner not in self.terms.issuers:
            raise EntryInvalid(rule="issuer", got=self.owner, wanted="an account with a budget in the genesis")
