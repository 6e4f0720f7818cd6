"""The canonical codec."""

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from ledger import codec
from ledger.errors import CodecInvalid

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
VALUES = st.recursive(
    st.integers(0, codec.MAX_INT) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_survives_and_its_bytes_are_those_of_rfc_8785(value):
    data = codec.encode(value)
    assert data == rfc8785.dumps(value)
    assert codec.decode(data) == value


@given(VALUES, st.data())
def test_bytes_with_one_changed_are_refused_or_mean_something_else(value, data):
    good = codec.encode(value)
    at, to = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
    bad = good[:at] + bytes([to]) + good[at + 1 :]
    try:
        assert (codec.decode(bad) == value) == (bad == good)
    except CodecInvalid:
        assert bad != good


@pytest.mark.parametrize(
    "data",
    [
        b"", b" 1", b"1 ", b"1.0", b"1e3", b"-1", b"-0", b"01", b"+1", b"9007199254740992", b"null", b"true", b"NaN",
        b"Infinity", b'{"a":1,"a":1}', b'{"a":1, "b":2}', b'{"b":1,"a":2}', b'"\\u0041"', b'"\\/"', b'"\\ud800"',
        b'"\xff"', b'{"\xc3\xa9":1}', b"\xef\xbb\xbf1", b"[1,]", b"[" * 100 + b"]" * 100, b"[" * 9000, b"1" * 5000,
        b'"\\u00e9"', b'"a\nb"', b"{1:2}", b"\xff\xfe1\x00",
    ],
)  # fmt: skip
def test_what_has_another_spelling_or_no_place_is_refused(data):
    with pytest.raises(CodecInvalid):
        codec.decode(data)


@pytest.mark.parametrize("value", [1.0, None, True, -1, 2**53, "\ud800", {"é": 1}, {1: 2}, b"x", {"a": [None]}, {1, 2}])
def test_values_without_a_canonical_form_are_refused(value):
    with pytest.raises(CodecInvalid):
        codec.encode(value)


def test_a_line_separator_is_kept_as_it_is():
    assert codec.decode(codec.encode("a\u2028b\x7f")) == "a\u2028b\x7f"


def test_longer_than_the_limit_is_refused_before_it_is_read():
    with pytest.raises(CodecInvalid, match="16385 bytes"):
        codec.decode(b"[" * 16385)


@pytest.mark.parametrize("text", ["QQ", "QR==", "QQ==\n", " QQ==", "QQ=", "QQ===", "Q-==", "QQ==QQ==", "é"])
def test_base64_with_another_spelling_is_refused(text):
    with pytest.raises(CodecInvalid):
        codec.b64decode(text)


@pytest.mark.parametrize("text", ["1_000", "１２", "+1", "-1", " 1", "1 ", "01", "", "0x1", "9007199254740992", "²"])
def test_decimals_with_another_spelling_are_refused(text):
    with pytest.raises(CodecInvalid):
        codec.decimal(text or "?")
