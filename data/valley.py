"""The fixed world that the sample corpus is about, the dice that choose, and the few rules of English inflection.

Only `random.Random.random` is drawn from, whose sequence Python fixes, so the text is the same on every version.

Pure: given a seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import words as w

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Trade:
    """What people of one trade make, use and do."""

    name: str
    goods: tuple[str, ...]
    tools: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Village:
    """A place of the valley with the facts that stay true of it."""

    name: str
    river: str
    inn: str
    crop: str
    market: str
    founded: int


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who lives in the valley."""

    given: str
    family: str
    woman: bool
    manner: str
    trade: Trade
    home: Village

    @property
    def name(self) -> str:
        """Full name."""
        return f"{self.given} {self.family}"


class Valley:
    """The fixed world and the dice that write about it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.year = 1203
        rows = [line.split(":") for line in w.TRADES.splitlines()]
        self.trades = [
            Trade(name=n, goods=tuple(g.split(",")), tools=tuple(t.split(",")), verbs=tuple(v.split(",")))
            for n, g, t, v in rows
        ]
        rivers = [head + tail for head, tail in self.pairs(w.HEADS, w.RIVER_TAILS, 60)]
        self.villages = [
            Village(
                name=head + tail, river=self.pick(rivers), inn=f"the {self.pick(w.ADJECTIVES).title()} {self.pick(w.BEASTS).title()}",
                crop=self.pick(w.CROPS), market=self.pick(w.DAYS), founded=900 + self.below(250),
            )
            for head, tail in self.pairs(w.HEADS, w.VILLAGE_TAILS, 420)
        ]  # fmt: skip
        givens = [head + tail for head, tail in self.pairs(w.GIVEN_HEADS, w.GIVEN_TAILS, 384)]
        families = [head + tail for head, tail in self.pairs(w.FAMILY_HEADS, w.FAMILY_TAILS, 540)]
        self.people = [
            Person(
                given=self.pick(givens), family=self.pick(families), woman=self.below(2) == 0,
                manner=self.pick(w.ADJECTIVES), trade=self.pick(self.trades), home=self.pick(self.villages),
            )
            for _ in range(2500)
        ]  # fmt: skip

    def below(self, limit: int) -> int:
        """A fair integer from 0 to limit − 1."""
        return int(self.dice.random() * limit)

    def pick(self, items: Sequence[T]) -> T:
        """One item, all equally likely."""
        return items[self.below(len(items))]

    def pairs(self, heads: str, tails: str, count: int) -> list[tuple[str, str]]:
        """`count` distinct pairs of a head and a tail."""
        every = [(head, tail) for head in heads.split() for tail in tails.split()]
        return [every.pop(self.below(len(every))) for _ in range(count)]

    def fill(self, pattern: str, trade: Trade | None = None) -> str:
        """A pattern with its {slots} filled from the word lists."""
        trade = trade or self.pick(self.trades)
        return pattern.format(
            verb=self.pick(trade.verbs), verb2=self.pick(trade.verbs), tool=self.pick(trade.tools), good=self.pick(trade.goods),
            trade=trade.name, adj=self.pick(w.ADJECTIVES), thing=self.pick(w.THING_ADJECTIVES), bird=self.pick(w.BIRDS),
            beast=self.pick(w.BEASTS), crop=self.pick(w.CROPS), tree=self.pick(w.TREES), flower=self.pick(w.FLOWERS),
            weather=self.pick(w.WEATHER), month=self.pick(w.MONTHS), place=self.pick(w.PLACES), feeling=self.pick(w.FEELINGS),
        )  # fmt: skip


def article(noun: str) -> str:
    """The noun with `a` or `an`."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun: str) -> str:
    """The regular plural of a noun."""
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    if noun.endswith("f"):
        return noun[:-1] + "ves"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def past(verb: str) -> str:
    """The past form of a verb of the word lists."""
    strong = {"build": "built", "bend": "bent", "lay": "laid", "drive": "drove", "throw": "threw", "blow": "blew",
              "cut": "cut", "lead": "led", "wring": "wrung", "bind": "bound", "spin": "spun", "weave": "wove",
              "grind": "ground", "gut": "gutted", "dip": "dipped", "trim": "trimmed", "pen": "penned", "peg": "pegged",
              "cap": "capped", "tan": "tanned", "dry": "dried", "dye": "dyed", "hoe": "hoed", "tow": "towed"}  # fmt: skip
    if verb in strong:
        return strong[verb]
    return verb + "d" if verb.endswith("e") else verb[:-1] + "ied" if verb.endswith("py") else verb + "ed"


def counted(number: int) -> str:
    """A whole number below one hundred in words."""
    if number <= 20:
        return w.NUMBERS[number - 1]
    tens = w.NUMBERS[number // 10 + 17]
    return tens if number % 10 == 0 else f"{tens}-{w.NUMBERS[number % 10 - 1]}"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def adverb(adjective: str) -> str:
    """The adverb of an adjective."""
    if adjective.endswith("y"):
        return adjective[:-1] + "ily"
    if adjective.endswith("ll"):
        return adjective + "y"
    return adjective[:-1] + "y" if adjective.endswith("le") else adjective + "ly"
