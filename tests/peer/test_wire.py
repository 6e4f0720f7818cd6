"""Frames and messages: what an honest peer sends comes back the same, everything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import Busy, MessageInvalid, Oversize, Refused
from peer.wire import (
    FRAME_LIMIT,
    JSON_LIMIT,
    PAYLOAD_LIMIT,
    Account,
    BlobId,
    Message,
    Natural,
    Reply,
    pack,
    pack_error,
    pack_reply,
    unpack,
    unpack_reply,
)

bodies = st.recursive(
    st.integers(0, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_", max_size=5), inner, max_size=4),
    max_leaves=10,
)


class Sample(Message):
    account: Account
    count: Natural
    blob: BlobId | None = None


GOOD = {"account": "ab" * 32, "count": 3}


@given(st.dictionaries(st.text("abc", max_size=5), bodies, max_size=4), st.binary(max_size=100))
def test_a_frame_comes_back_the_same(body: dict[str, object], payload: bytes) -> None:
    assert unpack(pack(body, payload)) == (body, payload)
    assert unpack_reply(pack_reply(Reply(body, payload))) == Reply(body, payload)


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        unpack(data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_bit_in_the_header_or_the_json_never_passes_silently(place: int, change: int) -> None:
    frame = bytearray(pack({"text": "hello", "number": 12}))
    frame[place % len(frame)] ^= change
    try:
        head, payload = unpack(bytes(frame))
    except MessageInvalid:
        return
    assert (head, payload) != ({"text": "hello", "number": 12}, b"")


def test_a_frame_of_one_whole_chunk_fits() -> None:
    assert len(pack({"blob": "x"}, bytes(PAYLOAD_LIMIT))) <= FRAME_LIMIT


@pytest.mark.parametrize(
    ("head", "payload"),
    [({}, bytes(PAYLOAD_LIMIT + 1)), ({"a": "x" * JSON_LIMIT}, b""), ({"a": "x" * 70_000}, bytes(1 << 20))],
)
def test_what_is_too_large_is_not_sent(head: dict[str, object], payload: bytes) -> None:
    with pytest.raises(Oversize):
        pack(head, payload)


def test_what_is_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Oversize):
        unpack(b"F1" + bytes(FRAME_LIMIT))


def test_a_false_length_of_the_json_is_refused() -> None:
    with pytest.raises(MessageInvalid, match="claims"):
        unpack(b"F1" + (1 << 31).to_bytes(4, "big") + b"{}")


@pytest.mark.parametrize(
    "text", [b'{"a":1.5}', b'{"a":null}', b'{"a":true}', b'{"b":1,"a":2}', b'{"a":1,"a":1}', b"[]", b"3"]
)
def test_json_that_is_not_canonical_is_refused(text: bytes) -> None:
    with pytest.raises(MessageInvalid):
        unpack(b"F1" + len(text).to_bytes(4, "big") + text)


def test_what_cannot_be_canonical_is_not_sent() -> None:
    with pytest.raises(MessageInvalid):
        pack({"loss": 0.5})


def test_an_error_reaches_the_caller_with_its_code_and_message() -> None:
    with pytest.raises(Refused, match="too many") as caught:
        unpack_reply(pack_error(Busy("too many")))
    assert caught.value.code == Busy.CODE


@pytest.mark.parametrize(
    "head",
    [{}, {"ok": {}, "error": {"code": "FP-300", "message": ""}}, {"error": {"code": "boom", "message": ""}}, {"ok": 3}],
)
def test_a_reply_that_is_neither_answer_nor_error_is_refused(head: dict[str, object]) -> None:
    with pytest.raises(MessageInvalid):
        unpack_reply(pack(head))


def test_a_message_leaves_out_what_is_none() -> None:
    assert Sample.read(GOOD).body() == GOOD


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"account": "AB" * 32}, "account"),
        ({"account": "ab" * 31}, "account"),
        ({"account": "ab" * 32 + "\n"}, "account"),
        ({"count": -1}, "count"),
        ({"count": "3"}, "count"),
        ({"count": 2**53}, "count"),
        ({"blob": "ab" * 32 + "-01"}, "blob"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_field_that_does_not_fit_is_named(change: dict[str, object], place: str) -> None:
    with pytest.raises(MessageInvalid, match=f"Sample: {place}"):
        Sample.read({**GOOD, **change})
