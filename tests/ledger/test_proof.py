"""Proofs for third parties: the published format, what each proves, and every way in which one proves nothing.

IO: a store in a temporary folder, read once.
"""

import base64
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import keys, notes, proof
from ledger.entries import Begin, Receipt, Send
from ledger.errors import LedgerError, ProofInvalid, QuorumMissing
from ledger.genesis import Genesis
from ledger.merkle import Tree, leaf_hash
from ledger.notes import Checkpoint
from ledger.store.store import Store

from .world import ALICE, ALICE_LOG, BOB, GENESIS, NOW, RUN, RUN_LOG, WITNESS, fill, fund, key_of, receipt_of, run_log

RECEIPT = 4
DATA = {ALICE_LOG: [entry.encode() for entry in fund()], RUN_LOG: [entry.encode() for entry in run_log()]}

# The example of the specification, https://c2sp.org/tlog-proof: all lines whose bytes it prints in full.
PUBLISHED = """c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

"""
LINE = f"— example.com/fancylog {base64.b64encode(bytes(68)).decode()}\n"


def certified(origin: str, data: list[bytes], cosigners: dict[str, keys.PrivateKey], key: keys.PrivateKey = ALICE):
    """A proof of every entry, under a certificate of these cosigners."""
    tree = Tree(map(leaf_hash, data))
    note = notes.sign_head(Checkpoint(origin=origin, size=tree.size, root=tree.root()), key)
    note = notes.combine(note, [notes.cosign(note, name, cosigner, NOW) for name, cosigner in cosigners.items()])
    begin = data[0] if "/run/" in origin else b""
    return [
        proof.Proof(entry=entry, begin=begin, index=i, path=tuple(tree.inclusion_proof(i, tree.size)), note=note)
        for i, entry in enumerate(data)
    ]


WITNESSED = {"witness": WITNESS}
GOOD = certified(RUN_LOG, DATA[RUN_LOG], WITNESSED)[RECEIPT]
SENT = certified(ALICE_LOG, DATA[ALICE_LOG], WITNESSED)[0]


def test_the_published_example_is_read_as_it_says():
    found = proof.parse((PUBLISHED + LINE).encode())
    assert (found.index, len(found.path), found.path[4].hex()[:8]) == (73894, 5, "0070a2a1")
    assert found.entry.startswith(b"age-v1.2.1-darwin-arm64.tar.gz")
    assert notes.checkpoint(notes.parse(found.note)).size == 109482
    with pytest.raises(ProofInvalid):
        proof.check(found, GENESIS)


def test_files_are_written_as_other_implementations_write_them():
    """The vectors of transparency-dev/formats, proof/tlog_proof_test.go (Apache-2.0): values, no code."""
    h1 = sha256(b"hash1").digest()
    about = SimpleNamespace(index=10, path=(h1,), note=b"checkpoint data\n")
    extra, hash_ = base64.b64encode(b"extra information").decode(), base64.b64encode(h1).decode()
    wanted = f"c2sp.org/tlog-proof@v1\nextra {extra}\nindex 10\n{hash_}\n\ncheckpoint data\n"
    assert proof.write(about, b"extra information") == wanted.encode()


@pytest.mark.parametrize("data", [
    "wrong-header\nindex 0\n\ncheckpoint\n", "c2sp.org/tlog-proof@v1\nextra !!notbase64!!\nindex 0\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\n\n\ncheckpoint\n", "c2sp.org/tlog-proof@v1\nindex notanumber\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\nindex -5\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\nindex 0\n!!notbase64!!\n\ncheckpoint\n",
    f"c2sp.org/tlog-proof@v1\nindex 0\n{base64.b64encode(bytes(64)).decode()}\n\ncheckpoint\n",
    "c2sp.org/tlog-proof@v1\nindex 0\n" + "a" * 65 * 1024 + "\n",
])  # fmt: skip
def test_what_other_implementations_refuse_is_refused(data):
    """From the same file."""
    with pytest.raises(ProofInvalid):
        proof.parse(data.encode())
    with pytest.raises(ProofInvalid):  # and with the extra line that ours must have
        proof.parse(data.replace("@v1\nindex", "@v1\nextra AAAA\nindex").encode())


@pytest.mark.parametrize("change", [
    lambda text: text[:-1], lambda text: text + "\n", lambda text: text.replace("\n", "\r\n"),
    lambda text: text.replace("index 4", "index 04"), lambda text: text.replace("index 4", "index +4"),
    lambda text: text.replace("index 4", "index 4 "), lambda text: text.replace("index 4", "index "),
    lambda text: text.replace("index 4\n", ""), lambda text: text.replace("extra ", "Extra "),
    lambda text: text.replace("extra ", "extra  "), lambda text: "\n" + text,
    lambda text: text.replace("\n\n", "\n", 1),
    lambda text: text.replace("index 4\n", "index 4\n" + "A" * 43 + "=\n" * 64), lambda text: "",
    lambda text: text.replace("index 4\n", "index 4\n" + ("A" * 43 + "=\n") * 64), lambda text: text + "x" * 10**6,
    lambda text: text.replace("index 4\n", "index 4\nAAAA\n"), lambda text: text.replace("c2sp", "ĉ2sp"),
    lambda text: text.replace("index 4\n", "index 4\n" + "A" * 42 + "B=\n"),
    lambda text: text.split("\n\n")[0] + "\n\n",
])  # fmt: skip
def test_a_file_that_is_not_exactly_so_is_not_read(change: Callable[[str], str]):
    with pytest.raises(ProofInvalid):
        proof.parse(change(proof.write(GOOD, GOOD.entry, GOOD.begin).decode()).encode())


def test_a_proof_is_read_as_it_was_written():
    for one in (GOOD, SENT):
        assert proof.parse(proof.write(one, one.entry, one.begin)) == one


def test_a_receipt_is_proven_with_run_round_writer_and_witnesses():
    proven = proof.check(GOOD, GENESIS)
    assert isinstance(proven.entry, Receipt)
    assert (proven.entry.account, proven.entry.round, proven.index, proven.size) == (BOB.public, 1, RECEIPT, 10)
    assert (proven.owner, proven.writer, proven.origin) == (f"run/{RUN}", ALICE.public, RUN_LOG)
    assert isinstance(proven.begin, Begin)
    assert proven.witnessed == (("witness", NOW),)
    assert proven.leaf == leaf_hash(GOOD.entry).hex()


def test_every_entry_of_a_store_can_be_proven(tmp_path):
    with Store.open(tmp_path / "ledger.db", GENESIS, create=True) as store:
        fill(store)
        for origin, data in DATA.items():
            begin = data[0] if origin == RUN_LOG else b""
            for index, entry in enumerate(data):
                file = proof.write(store.inclusion(origin, index), entry, begin)
                assert proof.check(proof.parse(file), GENESIS).entry.encode() == entry


FOREIGN = Genesis.create(name="other", supply={}, witnesses=[("witness", WITNESS.public)])
FORGED = replace(receipt_of(BOB, 1, "ab" * 32 + "-1", 0, 1), tokens=2000).encode()
OTHER_RUN = receipt_of(BOB, 1, "ab" * 32 + "-1", 0, 1, run="12" * 32).encode()
OTHER_NETWORK = receipt_of(BOB, 1, "ab" * 32 + "-1", 0, 1, network="12" * 32).encode()


def with_entry(data: bytes) -> proof.Proof:
    """As good as can be, were it not for what the entry says: the witnesses looked away."""
    return certified(RUN_LOG, [*DATA[RUN_LOG][:RECEIPT], data], WITNESSED)[RECEIPT]


def with_note(change: Callable[[bytes], bytes]) -> proof.Proof:
    return replace(GOOD, note=change(GOOD.note))


@pytest.mark.parametrize(("bad", "words"), [
    (replace(GOOD, entry=DATA[RUN_LOG][3]), "leads to root"),
    (replace(GOOD, index=3), "leads to root"),
    (replace(GOOD, index=10), "not below the size"),
    (replace(GOOD, path=GOOD.path[:-1]), "too short"),
    (replace(GOOD, path=(*GOOD.path, bytes(32))), "too long"),
    (replace(GOOD, path=GOOD.path[::-1]), "leads to root"),
    (replace(GOOD, entry=b"{}"), "type"),
    (replace(GOOD, entry=GOOD.entry + b" "), "not canonical"),
    (replace(GOOD, begin=b""), "lacks the run's entry 0"),
    (replace(GOOD, begin=GOOD.entry), "lacks the run's entry 0"),
    (replace(GOOD, begin=Begin(spec={**run_log()[0].spec, "name": "x"}).encode()), "run id"),
    (replace(SENT, begin=GOOD.begin), "an account's log"),
    (certified(RUN_LOG, DATA[RUN_LOG], WITNESSED, key=BOB)[RECEIPT], "not signed by any"),
    (certified(ALICE_LOG, DATA[ALICE_LOG], WITNESSED, key=BOB)[0], "not signed by any"),
    (certified(FOREIGN.origin(ALICE.public), DATA[ALICE_LOG], WITNESSED)[0], "origin"),
    (certified("example.com/log", DATA[ALICE_LOG], WITNESSED)[0], "origin"),
    (with_entry(FORGED), "does not verify"),
    (with_entry(OTHER_RUN), "receipt is for run 1212"),
    (with_entry(OTHER_NETWORK), "of network 1212"),
    (with_note(lambda note: note.replace(b"\n10\n", b"\n11\n")), "does not verify"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_what_does_not_hold_proves_nothing(bad: proof.Proof, words: str):
    with pytest.raises(ProofInvalid, match=words):
        proof.check(bad, GENESIS)


FOUR = {f"w{number}": key_of(f"w{number}") for number in range(4)}
BIG = Genesis.create(
    name="four", supply={ALICE.public: 10}, witnesses=[(name, key.public) for name, key in FOUR.items()], f=1
)


def cosigned(*names: str, **others: keys.PrivateKey) -> proof.Proof:
    """The proof of a send in the network of four witnesses."""
    data = [Send(to=BOB.public, amount=1).encode()]
    return certified(BIG.origin(ALICE.public), data, {**{name: FOUR[name] for name in names}, **others})[0]


def test_a_quorum_of_distinct_witnesses_of_the_network_is_wanted():
    assert [name for name, _ in proof.check(cosigned("w0", "w2", "w3"), BIG).witnessed] == ["w0", "w2", "w3"]
    twice = cosigned("w0", "w1")
    line = twice.note.splitlines(keepends=True)[-1]
    for bad in (
        cosigned(), cosigned("w0", "w1"), replace(twice, note=twice.note + line),
        cosigned("w0", "w1", stranger=key_of("stranger")), cosigned("w0", "w1", w9=FOUR["w2"]),
    ):  # fmt: skip
        with pytest.raises(QuorumMissing, match="wanted 3 of 4"):
            proof.check(bad, BIG)


def test_a_cosignature_that_does_not_verify_is_not_passed_over():
    with pytest.raises((ProofInvalid, QuorumMissing)):
        proof.check(cosigned("w0", "w1", w2=key_of("stranger")), BIG)
    moved = cosigned("w0", "w1", "w2")
    later = notes.cosign(cosigned().note, "w3", FOUR["w3"], NOW).replace(b"w3", b"w2")
    with pytest.raises((ProofInvalid, QuorumMissing)):
        proof.check(replace(moved, note=moved.note.rsplit("— w2".encode(), 1)[0] + later), BIG)


@given(st.binary(max_size=300))
def test_no_bytes_do_worse_than_being_refused(data: bytes):
    for prefix in (b"", b"c2sp.org/tlog-proof@v1\n", b"c2sp.org/tlog-proof@v1\nextra AAAA\nindex 0\n\n"):
        with pytest.raises(ProofInvalid):
            proof.parse(prefix + data)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_changed_byte_is_accepted(place: int, flip: int):
    data = bytearray(proof.write(GOOD, GOOD.entry, GOOD.begin))
    data[place % len(data)] ^= flip
    with pytest.raises(LedgerError):
        proof.check(proof.parse(bytes(data)), GENESIS)
