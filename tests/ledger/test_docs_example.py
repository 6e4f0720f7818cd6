"""The worked example of docs/ledger.md: the page, a recipe of its own and the ledger package agree on every byte.

`python -m tests.ledger.test_docs_example --write` writes the recipe's values into the page's blocks.

IO: reads the page; writes it when asked to.
"""

import json
import re
import sys
from pathlib import Path

import pytest

from ledger import codec, entries, evidence, merkle, notes, proof
from ledger.entries import Receipt, StageReceipt
from ledger.evidence import Evidence
from ledger.fold.effects import LogReader, Pay, Reserve
from ledger.fold.fold import Ledger, conservation, fold
from ledger.genesis import Genesis
from ledger.keys import PrivateKey
from ledger.receipt import CONTEXT
from ledger.rules import rules_of
from ledger.stages import run_state
from ledger.store.store import Store
from ledger.tiles import parse_bundle
from ledger.witness import Witness
from tests.ledger.docs_example import KEYS, RECEIPT, TIMES
from tests.ledger.docs_stages import SHARES, example

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"
BLOCK = re.compile(r"^```text ([a-z0-9 -]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(value: str) -> str:
    """A value as its block holds it."""
    return value if value.endswith("\n") else value + "\n"


def blocks(page: str) -> list[tuple[str, str]]:
    """Label and text of every labelled block."""
    return BLOCK.findall(page)


def written(page: str) -> str:
    """The page with the recipe's values in its blocks."""
    values = example()
    return BLOCK.sub(lambda block: f"```text {block[1]}\n{shown(values[block[1]])}```", page)


@pytest.fixture(scope="module")
def page() -> dict[str, str]:
    return {label: text.removesuffix("\n") for label, text in blocks(PAGE.read_text("utf-8"))}


@pytest.fixture(scope="module")
def genesis(page: dict[str, str]) -> Genesis:
    return Genesis.parse(page["genesis"].encode())


@pytest.fixture(scope="module")
def run(page: dict[str, str]) -> list[bytes]:
    return [page[f"run {index}"].encode() for index in range(6)]


@pytest.fixture(scope="module")
def key() -> dict[str, PrivateKey]:
    return {name: PrivateKey(key.seed) for name, key in KEYS.items()}


def column(text: str, number: int = 1) -> list[str]:
    """The words of a table's column."""
    return [line.split()[number] for line in text.splitlines()]


# The page and the recipe


def test_every_block_of_the_page_holds_what_the_seeds_give() -> None:
    assert blocks(PAGE.read_text("utf-8")) == [(label, shown(value)) for label, value in example().items()]


def test_a_changed_byte_in_any_block_is_noticed() -> None:
    text = PAGE.read_text("utf-8")
    wanted = [(label, shown(value)) for label, value in example().items()]
    for block in BLOCK.finditer(text):
        place = block.start(2) + len(block[2]) // 2
        changed = text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]
        assert blocks(changed) != wanted, block[1]


# The page and the package


def test_the_keys_and_ids_are_those_of_the_package(
    page: dict[str, str], genesis: Genesis, key: dict[str, PrivateKey]
) -> None:
    assert column(page["keys"]) == [KEYS[name].seed.hex() for name in key]
    assert column(page["keys"], 2) == [private.public for private in key.values()]
    assert genesis.encode().decode() == page["genesis"]
    assert genesis.id == page["network id"]
    assert genesis.quorum == len(TIMES)
    spec = codec.decode(page["spec"].encode())
    assert isinstance(spec, dict)
    assert entries.run_id(spec) == page["run id"]
    owners = (key["alice"].public, key["bob"].public, f"run/{page['run id']}")
    assert column(page["origins"]) == [genesis.origin(owner) for owner in owners]


def test_blob_ids_are_roots_and_lengths(page: dict[str, str]) -> None:
    for line in page["blobs"].splitlines():
        text, blob = re.split(r' (?=")|(?<=") ', line.strip())[1:]
        data = json.loads(text).encode()
        assert blob.strip() == f"{merkle.leaf_hash(data).hex()}-{len(data)}"


def test_every_entry_is_canonical_and_hashes_as_the_page_says(page: dict[str, str], run: list[bytes]) -> None:
    for data in (*run, page["alice 0"].encode(), page["alice 1"].encode(), page["bob 0"].encode()):
        assert entries.parse(data).encode() == data
    leaves = [merkle.leaf_hash(data) for data in run]
    assert column(page["run leaf hashes"]) == [leaf.hex() for leaf in leaves]
    assert column(page["run roots"]) == [merkle.root(leaves[:size]).hex() for size in range(1, 7)]
    assert page["alice 0 leaf hash"] == merkle.leaf_hash(page["alice 0"].encode()).hex()


def test_the_receipt_is_signed_over_what_the_page_says(page: dict[str, str], run: list[bytes]) -> None:
    receipt = entries.parse(run[RECEIPT])
    assert isinstance(receipt, Receipt)
    receipt.verify()
    assert receipt.signature == page["receipt signature"]
    body = receipt.to_json()
    del body["signature"]
    assert CONTEXT + codec.encode(body) == page["receipt input"].encode()


def test_a_store_and_three_witnesses_make_the_pages_certificate(
    page: dict[str, str], genesis: Genesis, run: list[bytes], key: dict[str, PrivateKey], tmp_path: Path
) -> None:
    origin = genesis.run_origin(page["run id"])
    with Store.open(tmp_path / "alice.db", genesis, create=True) as store:
        note = store.append(origin, run, key["alice"])
        assert note.decode() == page["head"] + "\n"
        lines = []
        for name, time in TIMES.items():
            with Store.open(tmp_path / f"{name}.db", genesis, create=True) as mirror:
                lines.append(Witness(mirror, genesis, key[name], name).cosign(origin, 0, run, note, time))
        assert b"".join(lines).decode() == page["cosignatures"] + "\n"
        certificate = notes.combine(note, lines)
        assert certificate.decode() == page["certificate"] + "\n"
        store.certify(origin, certificate)
        inclusion = store.inclusion(origin, RECEIPT)
    assert [item.hex() for item in inclusion.path] == column(page["inclusion"])
    root = merkle.root([merkle.leaf_hash(data) for data in run])
    merkle.verify_inclusion(inclusion.leaf, RECEIPT, inclusion.size, inclusion.path, root)
    assert proof.write(inclusion, run[RECEIPT], run[0]).decode() == page["tlog-proof"] + "\n"


def test_the_proof_proves_the_receipt_to_a_stranger(page: dict[str, str], genesis: Genesis, run: list[bytes]) -> None:
    proven = proof.check(proof.parse(page["tlog-proof"].encode() + b"\n"), genesis)
    assert proven.entry.encode() == run[RECEIPT]
    assert dict(proven.witnessed) == TIMES


def test_the_evidence_accuses_alice(page: dict[str, str], genesis: Genesis, key: dict[str, PrivateKey]) -> None:
    found = Evidence.parse(page["evidence"].encode())
    assert evidence.verify(found, genesis.terms) == (column(page["origins"])[0], key["alice"].public)
    tree = merkle.Tree([merkle.leaf_hash(page[f"fork {index}"].encode()) for index in (0, 1)])
    heads = [page[f"fork {which}"].encode() + b"\n" for which in ("first", "second")]
    assert evidence.build(tree, *heads) == found


def test_key_ids_are_as_the_page_says(page: dict[str, str], genesis: Genesis, key: dict[str, PrivateKey]) -> None:
    assert notes.log_key_id(genesis.run_origin(page["run id"]), key["alice"].public).hex() == page["log key id"]
    ids = [notes.witness_key_id(name, public).hex() for name, public in genesis.witnesses]
    assert column(page["witness key ids"]) == ids


def test_the_money_is_as_the_page_says(page: dict[str, str], genesis: Genesis, key: dict[str, PrivateKey]) -> None:
    logs = [(column(page["origins"])[place], name) for place, name in enumerate(("alice", "bob", "run"))]
    prefixes = {
        origin: [text.encode() for label, text in page.items() if re.fullmatch(f"{name} [0-9]", label)]
        for origin, name in logs
    }
    ledger: Ledger = fold(prefixes, genesis.terms)
    ends = [line.split()[-1] for line in page["money"].splitlines()]
    assert ledger.balances == {key["alice"].public: int(ends[-1]), key["bob"].public: int(ends[-2])}
    assert (ledger.voids, ledger.pendings, ledger.invalid) == ((), (), ())
    assert conservation(ledger)


def test_the_run_with_stages_is_what_the_page_says(page: dict[str, str], genesis: Genesis) -> None:
    states = [line.split()[-1] for line in page["stage states"].splitlines()]
    assert [run_state(states[:2]), run_state(states[3:5])] == [states[2], states[5]]
    spec = codec.decode(page["stage spec"].encode())
    assert isinstance(spec, dict)
    assert entries.run_id(spec) == page["stage run id"]
    begin = entries.Begin(spec=spec)
    assert (begin.state, begin.stages and begin.stages.shares) == (states[2], SHARES)
    receipts = [entries.parse(line.encode()) for line in page["stage receipts"].splitlines()]
    last = receipts[1]
    assert isinstance(last, StageReceipt)
    assert (last._signed().decode(), last.signature) == (page["stage receipt input"], page["stage receipt signature"])
    assert (last.bits, last.stage) == (0b11, 1)
    log = [begin, *(entries.parse(page[label].encode()) for label in ("stage open", "stage settle"))]
    log[2:2] = receipts
    for entry in log[1:]:
        assert entries.parse(entry.encode()) == entry
    readers = LogReader(rules_of(genesis.terms, genesis.run_origin(page["stage run id"])))
    effects = [readers.read(entry) for entry in log]
    reserve, pay = effects[1], effects[-1]
    assert isinstance(reserve, Reserve)
    assert isinstance(pay, Pay)
    earned = [amount for _, amount in pay.payments]
    assert [reserve.worth, *earned, reserve.worth - sum(earned)] == [int(part) for part in column(page["stage money"])]


def test_the_bundle_holds_the_entry(page: dict[str, str]) -> None:
    assert parse_bundle(bytes.fromhex(page["bundle"])) == [page["alice 0"].encode()]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit("python -m tests.ledger.test_docs_example --write")
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
