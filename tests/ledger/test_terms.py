"""Terms: which leader a witness takes heads from, and that leaders who race neither fork a log nor stop it."""

from dataclasses import replace
from random import Random

import pytest

from ledger import notes
from ledger.entries import Audit, Begin, run_id
from ledger.errors import Behind, Conflict, EntryInvalid, KeyInvalid, LedgerError, SignatureInvalid, TermOver
from ledger.genesis import Genesis
from ledger.merkle import Tree, leaf_hash
from ledger.store.store import Store
from ledger.terms import NONE, Bid, Term, may_have
from ledger.witness import Witness

from .world import ALICE, ALICE_LOG, BOB, NOW, key_of, spec_of

CAROL = key_of("carol")
LEADERS = [ALICE, BOB, CAROL]
KEYS = [key_of(f"witness {number}") for number in range(4)]
GENESIS = Genesis.create(
    name="terms", supply={ALICE.public: 10**6}, witnesses=[(f"w{n}", key.public) for n, key in enumerate(KEYS)]
)
SPEC = spec_of(leaders=[key.public for key in LEADERS])
LOG = GENESIS.run_origin(run_id(SPEC))
STRANGER = key_of("stranger")


def note_of(number):
    return Audit(round=1, account=ALICE.public, verdict="?", data=number)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "witness.db", GENESIS, create=True) as opened:
        yield opened


@pytest.fixture
def leader(tmp_path):
    """Alice's own store, with the run begun."""
    with Store.open(tmp_path / "alice.db", GENESIS, create=True) as opened:
        opened.append(LOG, [Begin(spec=SPEC)], ALICE)
        yield opened


@pytest.fixture
def witness(store, leader):
    found = Witness(store, GENESIS, KEYS[0], "w0")
    found.cosign(LOG, 0, leader.entries(LOG, 0, 1), leader.append(LOG, [], ALICE), NOW)
    return found


def bid(key, number, **changes):
    return Bid.create(key, LOG, number, **changes)


def test_the_first_bid_gets_its_term_and_the_next_one_waits_until_the_leader_is_idle(store, witness):
    assert store.term(LOG) == NONE
    assert witness.give(bid(ALICE, 1), idle=False) == Term(1, ALICE.public)
    assert witness.give(bid(BOB, 2), idle=False) == Term(1, ALICE.public)
    assert witness.give(bid(BOB, 2), idle=True) == Term(2, BOB.public)
    assert witness.give(bid(ALICE, 1), idle=True) == Term(2, BOB.public), "no way back"
    assert store.term(LOG) == Term(2, BOB.public)


def test_no_number_is_given_to_two_leaders(witness):
    assert witness.give(bid(ALICE, 5), idle=False) == Term(5, ALICE.public)
    assert witness.give(bid(BOB, 5), idle=True) == Term(5, ALICE.public)
    assert witness.give(bid(BOB, 4), idle=True) == Term(5, ALICE.public)


def test_who_leaves_gets_nothing_and_loses_nothing_on_disk(store, witness):
    witness.give(bid(ALICE, 1), idle=False)
    assert witness.give(bid(ALICE, 2, leave=True), idle=False) == Term(1, ALICE.public)
    assert store.term(LOG) == Term(1, ALICE.public)


def test_the_term_is_there_after_a_restart(store, witness, tmp_path):
    witness.give(bid(BOB, 3), idle=False)
    store.close()
    with Store.open(tmp_path / "witness.db", GENESIS) as again:
        assert again.term(LOG) == Term(3, BOB.public)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (bid(STRANGER, 1), KeyInvalid),
        (Bid.create(ALICE, GENESIS.origin(ALICE.public), 1), Behind),
        (Bid.create(ALICE, GENESIS.run_origin("ab" * 32), 1), Behind),
        (Bid.create(ALICE, ALICE_LOG, 1), EntryInvalid),
        (replace(bid(ALICE, 1), signature=bid(BOB, 1).signature), SignatureInvalid),
        (replace(bid(ALICE, 1), number=2), SignatureInvalid),
        (replace(bid(ALICE, 1), leave=True), SignatureInvalid),
        (replace(bid(ALICE, 1), number=0), EntryInvalid),
        (replace(bid(ALICE, 1), leader="x"), EntryInvalid),
        (replace(bid(ALICE, 1), signature="zz"), EntryInvalid),
    ],
    ids=[
        "no leader", "an account's log", "unknown run", "other network", "other's signature", "other number",
        "a bid as leave", "number 0", "no account", "no signature",
    ],
)  # fmt: skip
def test_a_bid_that_is_no_good_changes_nothing(store, witness, wrong, error):
    with pytest.raises(error):
        witness.give(wrong, idle=True)
    assert store.term(LOG) == NONE


def test_heads_are_taken_from_the_leader_of_the_term_alone(store, witness, leader):
    witness.give(bid(BOB, 1), idle=False)
    head = leader.append(LOG, [note_of(1)], ALICE)
    with pytest.raises(TermOver, match="term 1"):
        witness.cosign(LOG, 1, leader.entries(LOG, 1, 2), head, NOW)
    assert store.size(LOG) == 1
    witness.give(bid(ALICE, 2), idle=True)
    witness.cosign(LOG, 1, leader.entries(LOG, 1, 2), head, NOW)
    assert store.size(LOG) == 2


def test_a_new_leader_takes_over_what_was_promised_but_never_against_its_own_word(store, witness, leader, tmp_path):
    head = leader.append(LOG, [note_of(1)], ALICE)
    witness.cosign(LOG, 1, leader.entries(LOG, 1, 2), head, NOW)
    promised, entries = store.promised(LOG), store.entries(LOG, 0, 2)
    with Store.open(tmp_path / "bob.db", GENESIS, create=True) as bob:
        assert bob.adopt(LOG, 0, entries, promised, BOB.public) == 2
        assert bob.adopt(LOG, 0, entries, promised, BOB.public) == 0
        after = bob.append(LOG, [note_of(2)], BOB)
        witness.give(bid(BOB, 1), idle=True)
        witness.cosign(LOG, 2, bob.entries(LOG, 2, 3), after, NOW)
    with Store.open(tmp_path / "carol.db", GENESIS, create=True) as carol:
        carol.adopt(LOG, 0, entries[:1], notes.sign_head(first_head(entries), ALICE), CAROL.public)
        carol.append(LOG, [note_of(3)], CAROL)
        with pytest.raises(Conflict):
            carol.adopt(LOG, 0, entries, promised, CAROL.public)


def first_head(entries):
    return notes.Checkpoint(origin=LOG, size=1, root=Tree([leaf_hash(entries[0])]).root())


@pytest.mark.parametrize("idle", [False, True])
def test_the_rule_of_terms(idle):
    for number in range(1, 4):
        assert may_have(bid(ALICE, number), Term(2, ALICE.public), idle=idle) == (number >= 2)
        assert may_have(bid(BOB, number), Term(2, ALICE.public), idle=idle) == (number > 2 and idle)
        assert may_have(bid(BOB, number), NONE, idle=idle)


class Race:
    """Leaders that bid, append and crash at random, and lose messages; witnesses that keep their word."""

    def __init__(self, seed, folder):
        self.rng = Random(seed)
        self.stores = [Store.open(folder / f"leader{n}.db", GENESIS, create=True) for n in range(3)]
        self.places = [Store.open(folder / f"witness{n}.db", GENESIS, create=True) for n in range(4)]
        self.witnesses = [
            Witness(store, GENESIS, key, f"w{n}") for n, (store, key) in enumerate(zip(self.places, KEYS, strict=True))
        ]
        self.certified: list[tuple[int, bytes]] = []
        self.terms: list[Term | None] = [None] * 3
        self.count = 0
        self.stores[0].append(LOG, [Begin(spec=SPEC)], ALICE)
        self.deliver(0, range(4))

    def close(self):
        for store in (*self.stores, *self.places):
            store.close()

    def some(self):
        return self.rng.sample(range(4), self.rng.randint(1, 4))

    def bid(self, who, reached, *, idle):
        key, store = LEADERS[who], self.stores[who]
        number = 1 + max(self.places[n].term(LOG).number for n in reached)
        term = Term(number, key.public)
        given = [n for n in reached if self.witnesses[n].give(Bid.create(key, LOG, number), idle=idle) == term]
        self.terms[who] = None
        if len(given) < GENESIS.quorum or not store.may_lead(LOG, key.public):
            return
        promised = {n: note for n in given if (note := self.places[n].pledge(LOG)) is not None}
        heads = {n: notes.checkpoint(notes.parse(note)) for n, note in promised.items()}
        tails = {n: self.places[n].entries(LOG, 0, head.size) for n, head in heads.items()}
        agreeing = {n: self.agreeing(who, tails[n], [*heads.values()]) for n in heads}
        most = max(heads, key=lambda n: (agreeing[n], heads[n].size))
        try:
            store.adopt(LOG, 0, tails[most], promised[most], key.public)
        except Conflict:
            return  # its own word is another: somebody else must go on
        self.terms[who] = term

    def agreeing(self, who, entries, heads):
        try:
            return self.stores[who].agreeing(LOG, 0, entries, heads)
        except Conflict:
            return 0  # certified otherwise: that witness is outvoted

    def deliver(self, who, reached):
        """Sign what is stored, show it to some, and make the certificate known to some if there is one."""
        store, key = self.stores[who], LEADERS[who]
        try:
            note = store.append(LOG, [], key)
        except LedgerError:
            return
        size, lines = store.size(LOG), []
        for n in reached:
            try:
                lines.append(self.witnesses[n].cosign(LOG, 0, store.entries(LOG, 0, size), note, NOW))
            except LedgerError:
                continue
        if len(lines) >= GENESIS.quorum:
            certificate = notes.combine(note, lines)
            self.certified.append((size, notes.checkpoint(notes.parse(note)).root))
            for other in (*self.stores, *(self.places[n] for n in self.some())):
                if other is store or self.rng.random() < 0.7:
                    try:
                        other.accept(LOG, 0, store.entries(LOG, 0, size), certificate)
                    except LedgerError:
                        continue

    def tree(self, who):
        """The certified part of a leader's store."""
        certificate = self.stores[who].certified(LOG)
        size = certificate.size if certificate else 0
        return Tree([leaf_hash(data) for data in self.stores[who].entries(LOG, 0, size)])

    def step(self):
        who = self.rng.randrange(3)
        if self.terms[who] is None or self.rng.random() < 0.15:
            self.bid(who, self.some(), idle=self.rng.random() < 0.5)
        elif self.rng.random() < 0.1:
            self.terms[who] = None  # it crashed and forgot
        else:
            self.extend(who, self.some())

    def extend(self, who, reached):
        """Show these witnesses what is not certified yet, or one entry more."""
        certificate = self.stores[who].certified(LOG)
        if certificate is not None and certificate.size == self.stores[who].size(LOG):
            self.count += 1
            try:
                self.stores[who].append(LOG, [note_of(self.count)], LEADERS[who])
            except LedgerError:
                self.terms[who] = None
                return
        self.deliver(who, reached)

    def settle(self):
        """All can be reached again: whether anybody gets the log on."""
        before = max((size for size, _ in self.certified), default=0)
        for who in range(3):
            self.bid(who, range(4), idle=True)
            if self.terms[who] is not None:
                self.extend(who, range(4))
        return max((size for size, _ in self.certified), default=0) > before


    def split(self):
        """Whether the words given contradict each other so that no head can have a quorum, or nobody may sign it."""
        words = {n: self.word(store, "promise") for n, store in enumerate(self.places) if self.free(store)}
        own = [self.word(s, "head") for s, k in zip(self.stores, LEADERS, strict=True) if s.may_lead(LOG, k.public)]
        return not any(
            sum(agree(chain, word) for word in words.values()) >= GENESIS.quorum and any(agree(chain, o) for o in own)
            for chain in words.values()
        )

    @staticmethod
    def free(store):
        """Whether a witness was not outvoted."""
        return store.pledge(LOG) is not None or store.promised(LOG) is None

    @staticmethod
    def word(store, table):
        """The entries under the newest head that was promised, or signed."""
        head = store._head(table, LOG)
        return store.entries(LOG, 0, head.size if head else 0)


def agree(one, other):
    return all(a == b for a, b in zip(one, other, strict=False))


@pytest.mark.parametrize("seed", range(40))
def test_leaders_that_race_never_fork_the_log_and_stop_it_only_where_no_word_can_be_kept(tmp_path, seed):
    race = Race(seed, tmp_path)
    try:
        for _ in range(40):
            race.step()
        assert race.settle() or race.split(), "nobody went on, though a quorum could"
        trees = [race.tree(who) for who in range(3)]
        for size, root in race.certified:
            assert all(tree.root(size) == root for tree in trees if tree.size >= size)
    finally:
        race.close()
