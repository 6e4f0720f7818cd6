"""Answers to heartbeats: the news only, and of many peers a few."""

from __future__ import annotations

import random

from peer.messages import MOST_PEERS_TOLD, MOST_UPDATES_TOLD, Beat, News
from peer.runs.bulletin import Bulletin, digest, neighbours

RUN = "ab" * 32
LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def names(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS, k=52)) for _ in range(count)]


def update(number: int) -> str:
    return f"{number:064x}-100"


def beat(round_number: int = 0, heard: int = 0, peers: str = "") -> Beat:
    return Beat(run=RUN, state="", size=0, round=round_number, heard=heard, peers=peers)


def ask(bulletin: Bulletin, asked: Beat, peers: list[str], caller: str) -> News:
    news = bulletin.news(asked, caller=caller, size=7, signed=7, peers=peers)
    assert News.read(news.body()) == news
    return news


def test_an_update_is_told_once_to_who_counts_what_it_heard() -> None:
    bulletin, [me] = Bulletin(), names(1)
    for number in range(3):
        bulletin.arrived(1, update(number))
    bulletin.arrived(1, update(0))
    first = ask(bulletin, beat(), [], me)
    assert (first.round, first.updates) == (1, [update(number) for number in range(3)])
    assert ask(bulletin, beat(1, 3), [], me).updates == []
    bulletin.arrived(1, update(3))
    assert ask(bulletin, beat(1, 3), [], me).updates == [update(3)]
    bulletin.arrived(2, update(9))
    bulletin.arrived(1, update(4))
    assert ask(bulletin, beat(1, 4), [], me).updates == [update(9)], "another round counts anew; the old one is over"
    assert ask(bulletin, beat(2, 10**6), [], me).updates == [], "who counts wrongly hears nothing"


def test_a_thousand_updates_are_told_in_messages_of_equal_size() -> None:
    bulletin, heard, told, [me] = Bulletin(), 0, list[str](), names(1)
    for number in range(1000):
        bulletin.arrived(1, update(number))
    while more := ask(bulletin, beat(1, heard), [], me).updates:
        assert len(more) <= MOST_UPDATES_TOLD
        told += more
        heard += len(more)
    assert told == [update(number) for number in range(1000)]


def test_peers_are_told_when_they_change_and_not_again() -> None:
    bulletin, [me, *others] = Bulletin(), names(4)
    told = ask(bulletin, beat(), [me, *others], me).peers
    assert told == sorted(others)
    known = digest(told)
    assert ask(bulletin, beat(peers=known), [me, *reversed(others)], me).peers is None
    assert ask(bulletin, beat(peers=known), [me, *others[1:]], me).peers == sorted(others[1:])
    assert ask(bulletin, beat(peers=known), [me], me).peers == []
    assert ask(bulletin, beat(), [me], me).peers is None, "nobody is known to who knows nobody"


def test_of_many_peers_everybody_is_told_its_own_part_and_everybody_is_told_to_some() -> None:
    many = names(300)
    parts = {name: neighbours(name, many) for name in many}
    assert all(len(part) == MOST_PEERS_TOLD and name not in part for name, part in parts.items())
    told = [name for part in parts.values() for name in part]
    assert {told.count(name) for name in many} == {MOST_PEERS_TOLD}


def test_one_that_goes_changes_the_parts_of_its_neighbours_only() -> None:
    many = names(300)
    less = many[1:]
    changed = [name for name in less if neighbours(name, many) != neighbours(name, less)]
    assert len(changed) == MOST_PEERS_TOLD
