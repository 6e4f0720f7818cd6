"""Writes the sample corpus: the chronicle of a small valley, made by a grammar over a fixed world with a fixed seed.

Every village keeps its river, inn and reeve and every person keeps a trade, a home and a neighbour through the whole
text, so there are facts, forms (chronicle, dialogue, almanac, ledger, recipe, letter, song) and grammar to learn.

    python data/generate_corpus.py [--seed N] [--size BYTES] [--out FILE]

IO: writes one text file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import words as w
from valley import Valley, adverb, article, capital, counted, past, plural


def chronicle(v: Valley) -> str:
    """What happened in one village in one year."""
    v.year += 1
    place, who = v.pick(v.villages), v.pick(v.people)
    he, his = ("she", "her") if who.woman else ("he", "his")
    verb, good, tool = v.pick(who.trade.verbs), v.pick(who.trade.goods), v.pick(who.trade.tools)
    lines = [
        f"In the year {v.year} {v.pick(w.EVENTS)} at {place.name}, which lies on the river {place.river}.",
        f"{capital(v.pick(w.WEATHER))} {v.pick(w.WEATHER_DEEDS)} in {v.pick(w.MONTHS)}, and the harvest of {place.crop} was counted at "
        f"{counted(2 + v.below(97))} {v.pick(['sacks', 'cartloads', 'bushels', 'baskets'])}.",
        f"{who.name}, {article(who.manner)} {who.trade.name} of {who.home.name}, {past(verb)} {counted(2 + v.below(40))} {plural(good)} "
        f"with {his} {v.pick(w.THING_ADJECTIVES)} {tool}, and {he} sold them at the {v.pick(w.PLACES)} on {who.home.market}.",
        f"There was {v.pick(w.FEELINGS)} in the house of {who.family}, and {he} drank at {who.home.inn} until the {v.pick(w.BIRDS)} called.",
        f"The village of {place.name} was founded in the year {place.founded}, and it has kept its market on {place.market} ever since.",
    ]
    keep = 2 + v.below(4)
    return " ".join([lines[0], *[lines.pop(1 + v.below(len(lines) - 1)) for _ in range(keep - 1)]])


def dialogue(v: Valley) -> str:
    """Two people meet and speak of work, weather and quarrels."""
    one, two = v.pick(v.people), v.pick(v.people)
    good, tool, price = v.pick(two.trade.goods), v.pick(one.trade.tools), 2 + v.below(28)
    turns = [
        f"{one.given.upper()}. Good morning, {two.given}. What does {article(good)} cost today?",
        f"{two.given.upper()}. {capital(counted(price))} pennies, and not a penny less. The {v.pick(w.WEATHER)} {v.pick(w.WEATHER_DEEDS)}.",
        f"{one.given.upper()}. {capital(counted(price))}! In {one.home.name} the {two.trade.name} asks {counted(max(1, price // 2))}.",
        f"{two.given.upper()}. Then walk to {one.home.name}, for the {v.pick(w.PLACES)} is open on {one.home.market}.",
        f"{one.given.upper()}. I would, but my {tool} is {v.pick(['broken', 'lost', 'lent to my brother', 'under the cart'])}. "
        f"We {past(v.pick(one.trade.verbs))} all night.",
        f"{two.given.upper()}. They say: {v.fill(v.pick(w.PROVERBS), two.trade)}.",
        f'"I heard you quarrelled over {v.pick(w.QUARRELS)}," {v.pick(w.SAID)} {one.given}. "Is there {v.pick(w.FEELINGS)} in it still?"',
        f'"{capital(v.pick(["none at all", "a little", "ask me at harvest", "more than you know"]))}," {v.pick(w.SAID)} {two.given} the {two.trade.name}.',
    ]
    start = 0 if v.below(3) else 2
    return "\n".join(turns[start : start + 4 + v.below(5)])


def almanac(v: Valley) -> str:
    """Advice for one month."""
    month, trade = v.pick(w.MONTHS), v.pick(v.trades)
    head = f"ALMANAC FOR {month.upper()}, {v.year}"
    rows = [
        f"{day} {counted(1 + v.below(28))}: {v.pick([f'sow {v.pick(w.CROPS)}', f'gather {v.pick(w.FLOWERS)}', f'cut the {v.pick(w.TREES)}', f'feed the {v.pick(w.BEASTS)}', f'watch for the {v.pick(w.BIRDS)}', f'mend the {v.pick(trade.tools)}'])}; expect {v.pick(w.WEATHER)}."
        for day in w.DAYS[v.below(4) :]
    ]
    return "\n".join([head, *rows, capital(v.fill(v.pick(w.PROVERBS), trade)) + "."])


def account(v: Valley) -> str:
    """The market book of one village, with a sum that adds up."""
    place = v.pick(v.villages)
    rows, total = [], 0
    for _ in range(3 + v.below(4)):
        who = v.pick(v.people)
        number, price = 1 + v.below(12), 1 + v.below(9)
        total += number * price
        good = v.pick(who.trade.goods)
        rows.append(
            f"{who.name}, {who.trade.name}: {number} {good if number == 1 else plural(good)} at {price} = {number * price}"
        )
    return "\n".join(
        [f"MARKET BOOK OF {place.name.upper()}, {place.market}", *rows, f"Sum of the day: {total} pennies."]
    )


def recipe(v: Valley) -> str:
    """How a trade makes its goods."""
    trade = v.pick(v.trades)
    steps = [
        f"{capital(v.pick(trade.verbs))} it {v.pick(['slowly', 'twice', 'until evening', 'by the fire', 'with care', 'in the shade'])} "
        f"with the {v.pick(w.THING_ADJECTIVES)} {v.pick(trade.tools)}."
        for _ in range(2 + v.below(3))
    ]
    good = v.pick(trade.goods)
    return "\n".join([f"HOW THE {trade.name.upper()} MAKES {article(good).upper()}", *[f"{i}. {s}" for i, s in enumerate(steps, 1)],
                      f"Keep the {good} away from {v.pick(w.WEATHER)}, and show it to nobody before {v.pick(w.DAYS)}."])  # fmt: skip


def letter(v: Valley) -> str:
    """One person writes to another."""
    one, two = v.pick(v.people), v.pick(v.people)
    return "\n".join([
        f"Dear {two.given},",
        f"I write from {one.home.name}, where {v.pick(w.EVENTS)}. The {v.pick(w.WEATHER)} {v.pick(w.WEATHER_DEEDS)}, and the "
        f"{v.pick(w.BEASTS)} is {v.pick(w.ADJECTIVES)}. Send me {counted(2 + v.below(20))} {plural(v.pick(two.trade.goods))} by the ferry on "
        f"the {two.home.river}, and I shall {v.pick(one.trade.verbs)} {article(v.pick(one.trade.goods))} for you before {v.pick(w.MONTHS)}. "
        f"Under the {v.pick(w.TREES)} by the {v.pick(w.PLACES)} the {v.pick(w.FLOWERS)} is out, and I think of you with {v.pick(w.FEELINGS)}.",
        f"Your {v.pick(w.ADJECTIVES)} friend, {one.name}, {one.trade.name}",
    ])  # fmt: skip


def song(v: Valley) -> str:
    """Four rhyming lines of a tavern song."""
    head, tails = v.pick(w.RHYMES).split(":")
    ends = [head, v.pick(tails.split(",")), v.pick(tails.split(",")), head]
    lines = [f"{v.pick(w.VERSE_STARTS)} {v.fill(v.pick(w.VERSE_MIDDLES))} {end}," for end in ends]
    return "\n".join(lines)[:-1] + "."


def will(v: Valley) -> str:
    """What somebody leaves to whom."""
    who = v.pick(v.people)
    his = "her" if who.woman else "his"
    lines = [f"THE WILL OF {who.name.upper()}, {who.trade.name} of {who.home.name}"]
    for _ in range(3 + v.below(4)):
        thing = f"{v.pick(w.THING_ADJECTIVES)} {v.pick(w.COLOURS)} {v.pick(w.HOUSE_GOODS)}"
        lines.append(f"To {his} {v.pick(w.RELATIVES)} {v.pick(v.people).given}, {article(thing)}.")
    lines.append(f"Sealed at {who.home.inn} in {v.pick(w.MONTHS)} of the year {v.year}, with {v.pick(w.FEELINGS)}.")
    return "\n".join(lines)


def journey(v: Valley) -> str:
    """Somebody travels, eats, and is cured of something."""
    who, there = v.pick(v.people), v.pick(v.villages)
    he, his = ("She", "her") if who.woman else ("He", "his")
    return (
        f"{who.given} {v.pick(w.JOURNEYS)} {adverb(v.pick(w.ADJECTIVES))} from {who.home.name} to {there.name} on {there.market}, carrying "
        f"{article(v.pick(w.COLOURS))} {v.pick(w.HOUSE_GOODS)} and {his} {v.pick(who.trade.tools)}. At {there.inn} {he.lower()} was given "
        f"{v.pick(w.FOODS)} with {v.pick(w.FOODS)} and a little {v.pick(w.FOODS)}. {he} had {article(v.pick(w.AILMENTS))} of the {v.pick(w.BODIES)}, "
        f"so the {v.pick(w.RELATIVES)} of the {v.pick(v.trades).name} laid {v.pick(w.FLOWERS)} and {v.pick(w.FOODS)} upon it. "
        f"{he} {v.pick(w.JOURNEYS)} home {adverb(v.pick(w.ADJECTIVES))} along the {there.river}."
    )


FORMS = (
    *(chronicle, chronicle, chronicle, dialogue, dialogue, dialogue, journey, journey, journey),
    *(letter, letter, will, will, almanac, account, recipe, song),
)


def corpus(seed: int, size_bytes: int) -> bytes:
    """The whole text, ASCII, at least `size_bytes` long, ending after a whole piece."""
    valley, pieces, length = Valley(seed), [], 0
    while length < size_bytes:
        piece = valley.pick(FORMS)(valley) + "\n\n"
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces).encode("ascii")


def main() -> None:
    """Write the corpus to a file."""
    parser = argparse.ArgumentParser(description="Write the sample corpus.")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--size", type=int, default=500_000, help="at least this many bytes")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("sample_corpus.txt"))
    given = parser.parse_args()
    given.out.write_bytes(corpus(given.seed, given.size))


if __name__ == "__main__":
    main()
