"""Adverts and the validator: only whole, signed, timely records of this network are stored or believed."""

import types
from collections.abc import Callable

import pytest

from ledger import codec
from ledger.keys import PrivateKey
from peer.errors import MessageInvalid, RecordInvalid
from peer.network.validator import RecordValidator, _dht_id, unpack_string
from peer.peerkey import Binding, PeerKey
from peer.records import MAX_TTL_S, SHARDS, TTL_S, PeerAdvert, RunAdvert

NETWORK = "ab" * 32
NOW = 1_800_000_000.0
KEY, PEER = PrivateKey.generate(), PeerKey.generate()
BINDING = Binding.create(KEY, PEER)


def advert(**fields: object) -> PeerAdvert:
    return PeerAdvert.of(
        KEY, BINDING, **{"network": NETWORK, "now": NOW, "addresses": ["/ip4/1.2.3.4/tcp/5"], **fields}
    )


def run_advert(key: PrivateKey = KEY, run: str = "cd" * 32) -> RunAdvert:
    return RunAdvert.create(key, now=NOW, network=NETWORK, peer_id=PEER.peer_id, run=run, phase="training")


def msgpack(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return bytes([0xDA if isinstance(value, str) else 0xC5]) + len(data).to_bytes(2, "big") + data


def stored(record: PeerAdvert | RunAdvert, **changes: object) -> types.SimpleNamespace:
    """What hivemind hands to a validator."""
    fields = {
        "key": _dht_id(record.key),
        "subkey": msgpack(record.subkey),
        "value": msgpack(record.encode()),
        "expiration_time": float(record.expires),
    }
    return types.SimpleNamespace(**{**fields, **changes})


def validator(now: Callable[[], float] = lambda: NOW, own: str = "") -> RecordValidator:
    return RecordValidator(NETWORK, now, own)


def test_an_advert_comes_back_the_same_and_verified() -> None:
    record = advert(name="box", gflops=12, roles=["member"])
    again = PeerAdvert.verify(record.text().encode(), network=NETWORK, now=NOW)
    assert again == record
    assert again.facts()["gflops"] == 12
    assert "signature" not in again.facts()


@pytest.mark.parametrize("field", ["name", "gflops", "peer_id", "account", "expires", "network"])
def test_no_field_can_be_changed_by_others(field: str) -> None:
    body = advert(name="box", gflops=12).body()
    other = PeerKey.generate().peer_id if field == "peer_id" else "ef" * 32 if isinstance(body[field], str) else 13
    with pytest.raises(RecordInvalid):
        PeerAdvert.verify(codec.encode({**body, field: other}))


def test_an_account_cannot_advertise_a_peer_that_did_not_sign_for_it() -> None:
    thief = PrivateKey.generate()
    body = advert().body()
    fields = {key: value for key, value in body.items() if key not in ("account", "expires", "signature")}
    forged = PeerAdvert.create(thief, now=NOW, **fields)
    with pytest.raises(RecordInvalid, match="binding"):
        PeerAdvert.verify(forged.encode())


def test_one_kind_of_record_is_not_another() -> None:
    with pytest.raises(RecordInvalid):
        RunAdvert.verify(advert().encode())


@pytest.mark.parametrize("now", [NOW + TTL_S, NOW + 10_000, NOW - MAX_TTL_S])
def test_a_record_out_of_its_time_is_refused(now: float) -> None:
    with pytest.raises(RecordInvalid, match="expires"):
        PeerAdvert.verify(advert().encode(), network=NETWORK, now=now)


def test_a_record_of_another_network_is_refused() -> None:
    with pytest.raises(RecordInvalid, match="of network"):
        PeerAdvert.verify(advert().encode(), network="cd" * 32, now=NOW)


def test_a_record_larger_than_the_limit_is_not_made() -> None:
    with pytest.raises(MessageInvalid):
        advert(addresses=["x" * 200] * 17)
    with pytest.raises(RecordInvalid, match="at most 8192"):
        PeerAdvert.verify(b" " * 9000)


# ---------------------------------------------------------------- validator


def test_our_dht_keys_are_those_of_hivemind() -> None:
    from peer.network.link import DHTNode  # noqa: F401  # its import is the quiet one
    from hivemind.dht.routing import DHTID  # isort: skip

    for key in PeerAdvert.keys(NETWORK) + RunAdvert.keys(NETWORK):
        assert DHTID.generate(key).to_bytes() == _dht_id(key)


def test_every_record_lies_under_one_of_the_keys_of_its_kind() -> None:
    keys = {run_advert(run=f"{number:02x}" * 32).key for number in range(256)}
    assert keys == set(RunAdvert.keys(NETWORK))
    assert len(keys) == SHARDS


def test_a_good_record_is_stored() -> None:
    assert validator().validate(stored(advert()))
    assert validator().validate(stored(run_advert()))


@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(20)},
        {"subkey": msgpack("ab" * 32)},
        {"subkey": b"\xc0"},
        {"subkey": b""},
        {"value": msgpack(b"{}")},
        {"value": b"\xc5\xff\xff"},
        {"value": msgpack(bytes(9000))},
        {"expiration_time": NOW + TTL_S + 1},
        {"expiration_time": float("inf")},
    ],
)
def test_anything_else_about_it_is_refused(changes: dict[str, object]) -> None:
    checker = validator()
    assert not checker.validate(stored(advert(), **changes))
    assert checker.refused.total() == 1


def test_a_record_stored_under_the_key_of_another_kind_is_refused() -> None:
    assert not validator().validate(stored(advert(), key=_dht_id(run_advert().key)))


def test_a_record_is_believed_only_until_it_expires() -> None:
    now = [NOW]
    checker = validator(lambda: now[0])
    assert checker.validate(stored(advert()))
    now[0] = NOW + TTL_S
    assert not checker.validate(stored(advert()))


def test_one_account_cannot_fill_the_memory_of_others() -> None:
    checker = validator()
    spam = [checker.validate(stored(run_advert(run=f"{number:064x}"))) for number in range(70)]
    assert sum(spam) == 64
    assert checker.validate(stored(run_advert(PrivateKey.generate())))
    assert checker.validate(stored(run_advert(run=f"{3:064x}")))  # one that is here may be refreshed


def test_our_own_records_always_find_room() -> None:
    checker = validator(own=KEY.public)
    assert all(checker.validate(stored(run_advert(run=f"{number:064x}"))) for number in range(70))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xa2hi", "hi"),
        (b"\xd9\x02hi", "hi"),
        (b"\xc4\x02hi", b"hi"),
        (b"\xc5\x00\x02hi", b"hi"),
        (b"\xa3hi", None),
        (b"\xa1hi", None),
        (b"\xa1\xff", None),
        (b"\xc6\x00\x00\x00\x02hi", None),
        (b"\xc1", None),
        (b"", None),
    ],
)
def test_only_whole_strings_are_unpacked(data: bytes, value: object) -> None:
    assert unpack_string(data) == value
