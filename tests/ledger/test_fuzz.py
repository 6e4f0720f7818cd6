"""What reads bytes of strangers, fed with awkward ones. `scripts/long/fuzz_ledger.py` goes on for minutes."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import codec
from ledger.errors import LedgerError
from tests.ledger.tamper.parsers import archives, judge, mutate, parsers

NAMES = [
    "json", "entry", "note", "genesis", "network", "bundle", "certificates", "proof", "evidence", "key",
]  # fmt: skip
ROUNDS = 400


@pytest.fixture(scope="module")
def by_name(tmp_path_factory):
    found = {parser.name: parser for parser in parsers(tmp_path_factory.mktemp("fuzz"))}
    assert list(found) == NAMES
    return found


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_read_and_written_as_they_were(by_name, name):
    parser = by_name[name]
    for data in parser.corpus:
        assert judge(parser, data, memory=True) == ""
        parser.read(data)  # not refused


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_a_ledger_error_comes_out(by_name, name):
    parser = by_name[name]
    for seed in range(ROUNDS):
        data = mutate(Random(seed), parser)
        assert judge(parser, data, memory=seed % 20 == 0) == "", (seed, data[:200])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_refused_or_read(by_name, name, data):
    assert judge(by_name[name], data) == ""


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-1, 2**60) | st.text(max_size=10) | st.just("ab" * 32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
KEYS = ["type", "to", "amount", "memo", "origin", "index", "size", "root", "spec", "round", "state", "roster", "rules",
        "name", "supply", "witnesses", "f", "issuers", "bootstrap", "genesis", "first", "second", "proof", "begin",
        "receipts", "slots", "validation", "signature"]  # fmt: skip


KINDS = st.sampled_from(["send", "recv", "open", "settle", ""])


@pytest.mark.parametrize("name", ["json", "entry", "genesis", "network", "evidence"])
@settings(max_examples=60)
@given(body=st.dictionaries(st.sampled_from(KEYS), VALUES), kind=KINDS)
def test_any_object_is_refused_or_read(by_name, name, body, kind):
    data = json.dumps({**body, "type": kind} if kind else body, sort_keys=True, separators=(",", ":"))
    assert judge(by_name[name], data.encode(errors="replace")) == ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bomb", [
    b"[" * 200_000, b'{"a":' * 30_000, b"9" * 300_000, b"\n" * 300_000, b'"' + b"\\u0041" * 40_000 + b'"',
    "— a AAAAAAAA\n".encode() * 20_000, b"\x00\x00" * 100_000, b"\xff" * 300_000,
])  # fmt: skip
def test_a_bomb_takes_no_more_than_its_share_of_memory(by_name, name, bomb):
    assert judge(by_name[name], bomb, memory=True) == ""


def test_an_archive_with_a_changed_file_is_refused_or_the_same(tmp_path):
    for number, wrong in enumerate(archives(tmp_path, Random(1))):
        assert wrong == "", number
        if number == 40:
            break


@pytest.mark.parametrize("data", [
    b'{"amount":1,"memo":"","to":"a\\nb","type":"send"}', b'{"amount":1,"memo":"","to":"\\u001b[2J","type":"send"}',
    b'{"a\\nb":1}', b'{"type":"a\\r"}', '{"type":"\u2028"}'.encode(),
])  # fmt: skip
def test_what_strangers_write_does_not_break_a_message_into_lines_nor_steer_a_terminal(by_name, data):
    for name in ("entry", "genesis", "evidence"):
        assert judge(by_name[name], data) == ""
        with pytest.raises(LedgerError) as caught:
            by_name[name].read(data)
        assert caught.value.message.isprintable()
        assert getattr(caught.value, "got", "").isprintable()


def test_the_judge_sees_what_is_wrong(by_name):
    entry = by_name["entry"]
    lax = type(entry)(name="lax", read=lambda data: data.decode(), corpus=(b"x",), again=lambda found: b"other")
    assert judge(lax, b"\xff").startswith("UnicodeDecodeError")
    assert judge(lax, b"x") == "read, but not what would be written"
    hungry = type(entry)(name="hungry", read=lambda data: bytearray(1 << 24), corpus=(b"x",))
    with pytest.raises(AssertionError, match="bytes of memory"):
        judge(hungry, b"x", memory=True)
    assert codec.MAX_BYTES < 1 << 24
