"""Ed25519 edge cases as others published them: Wycheproof, and the cases of "Taming the many EdDSAs" (speccheck)."""

import json
from pathlib import Path

import pytest

from ledger import keys
from ledger.errors import KeyInvalid, SignatureInvalid

VECTORS = Path(__file__).parents[1] / "vectors"
WYCHEPROOF = json.loads((VECTORS / "wycheproof_ed25519.json").read_text())["cases"]
SPECCHECK = json.loads((VECTORS / "speccheck_ed25519.json").read_text())["cases"]
# Cases 6 and 7: a key of prime order whose signature's S is not below L. All others: the key itself is refused.
REFUSED_BY_SIGNATURE = {6, 7}


def verifies(public: str, message: str, signature: str) -> bool:
    """Whether a signature verifies."""
    try:
        keys.verify(public, bytes.fromhex(message), bytes.fromhex(signature))
    except SignatureInvalid:
        return False
    return True


def test_all_cases_of_wycheproof():
    assert len(WYCHEPROOF) == 151
    wrong = [
        number
        for number, result, public, message, signature in WYCHEPROOF
        if verifies(public, message, signature) != (result == "valid")
    ]
    assert wrong == []
    for public in {case[2] for case in WYCHEPROOF}:
        keys.check_public(public)


@pytest.mark.parametrize(("number", "public", "message", "signature"), SPECCHECK)
def test_no_case_of_speccheck_gets_through(number, public, message, signature):
    if number in REFUSED_BY_SIGNATURE:
        keys.check_public(public)
        assert not verifies(public, message, signature)
    else:
        with pytest.raises(KeyInvalid):
            keys.check_public(public)


def test_the_check_of_the_key_is_what_refuses_some_of_them():
    through = [number for number, *case in SPECCHECK if verifies(*case)]
    assert {0, 1, 2, 3} <= set(through)  # a verifier alone takes signatures under keys of small and mixed order
