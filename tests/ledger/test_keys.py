"""Keys: registration, signatures, files."""

import os
import stat

import pytest

from ledger import keys
from ledger.errors import KeyInvalid, SignatureInvalid
from ledger.keys import PrivateKey

P = 2**255 - 19

# All points of small order, canonical or not (from "Taming the many EdDSAs", table of section 5, and libsodium).
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
# A mixed-order key: a prime-order point plus one of order 8 (case 4 of the same paper).
MIXED_ORDER = "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d"
# RFC 8032 section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
     "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
     "55141438e7a100b"),
    ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
     "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb"
     "00d291612bb0c00"),
    ("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
     "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc"
     "027beceea1ec40a"),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(seed, public, message, signature):
    key = PrivateKey(bytes.fromhex(seed))
    assert (key.public, key.sign(bytes.fromhex(message)).hex()) == (public, signature)
    keys.verify(public, bytes.fromhex(message), bytes.fromhex(signature))
    keys.check_public(public)


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_a_key_of_small_order_or_odd_encoding_is_refused(public):
    with pytest.raises(KeyInvalid):
        keys.check_public(public)


def test_a_key_of_mixed_order_is_refused():
    with pytest.raises(KeyInvalid, match="mixed order"):
        keys.check_public(MIXED_ORDER)


def test_every_made_key_may_be_registered():
    for _ in range(20):
        keys.check_public(PrivateKey.generate().public)


@pytest.mark.parametrize("public", ["", "ab", "AB" * 32, "zz" * 32, "ff" * 32, (2).to_bytes(32, "little").hex(), 5])
def test_what_is_no_key_is_refused(public):
    with pytest.raises(KeyInvalid):
        keys.check_public(public)


def test_a_wrong_signature_is_refused():
    key = PrivateKey.generate()
    with pytest.raises(SignatureInvalid):
        keys.verify(key.public, b"other", key.sign(b"message"))


def test_a_saved_key_is_the_owners_alone_and_loads_again(tmp_path):
    key = PrivateKey.generate()
    key.save(tmp_path / "a.key")
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert PrivateKey.load(tmp_path / "a.key").public == key.public
    assert os.listdir(tmp_path) == ["a.key"]


def test_a_key_file_is_never_overwritten(tmp_path):
    PrivateKey.generate().save(tmp_path / "a.key")
    before = (tmp_path / "a.key").read_bytes()
    with pytest.raises(KeyInvalid, match="not overwritten"):
        PrivateKey.generate().save(tmp_path / "a.key")
    assert (tmp_path / "a.key").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.key"]


def test_a_key_that_others_may_read_is_refused(tmp_path):
    PrivateKey.generate().save(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(0o644)
    with pytest.raises(KeyInvalid, match="chmod 600"):
        PrivateKey.load(tmp_path / "a.key")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"p2p-llm-forge ed25519 " + b"A" * 64 + b"\n", b"\xff" * 300])
def test_a_file_that_is_no_key_is_refused(tmp_path, content):
    (tmp_path / "a.key").write_bytes(content)
    (tmp_path / "a.key").chmod(0o600)
    with pytest.raises(KeyInvalid, match="not a key file"):
        PrivateKey.load(tmp_path / "a.key")


def test_a_missing_key_or_folder_is_said(tmp_path):
    with pytest.raises(KeyInvalid, match="keygen"):
        PrivateKey.load(tmp_path / "none")
    with pytest.raises(KeyInvalid, match="cannot write"):
        PrivateKey.generate().save(tmp_path / "no" / "folder.key")


def test_a_key_is_not_printed():
    key = PrivateKey.generate()
    assert repr(key) == f"PrivateKey({key.public[:8]}…)"
