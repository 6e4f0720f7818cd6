"""What the ledger relies on in a run's spec, and the run's id.

Pure: no IO.
"""

import re
from collections.abc import Mapping

from . import codec, keys, values
from .codec import Json
from .stages import check_stages

MAX_LEADERS = 16
"""The most leaders of a run."""

_is_nonce = re.compile(r"[0-9a-f]{32}").fullmatch


def run_id(spec: Mapping[str, Json]) -> str:
    """The id of the run with this spec: the SHA-256 of its canonical bytes, in hex."""
    return keys.fingerprint(codec.encode(spec))


_SPEC_KEYS = {
    "version", "name", "submitter", "leaders", "price", "tokens_per_slot", "slots_per_epoch", "rounds", "nonce",
    "config", "blobs",
}  # fmt: skip
_SPEC_BLOBS = ("model", "tokenizer", "manifest", "state")


def check_spec(spec: object) -> None:
    """Check the part of a run's spec that the ledger relies on.

    Raises:
        EntryInvalid: a field is missing or not what it must be.
    """
    if type(spec) is not dict or not spec.keys() >= _SPEC_KEYS:
        missing = sorted(_SPEC_KEYS - spec.keys()) if type(spec) is dict else "everything"
        raise values.fail("spec", f"without {missing}", "an object with " + ", ".join(sorted(_SPEC_KEYS)))
    if type(spec["version"]) is not int or spec["version"] != 1:
        raise values.fail("spec.version", spec["version"], 1)
    values.text("spec.name", spec["name"], values.MAX_MEMO)
    values.account("spec.submitter", spec["submitter"])
    leaders = values.array("spec.leaders", spec["leaders"])
    for leader in leaders:
        values.account("spec.leaders", leader)
    if not 1 <= len(leaders) <= MAX_LEADERS or len(set(leaders)) != len(leaders):
        got = f"{len(leaders)} accounts, {len(set(leaders))} distinct"
        raise values.fail("spec.leaders", got, f"1..{MAX_LEADERS} distinct")
    values.integer("spec.price", spec["price"])
    for name in ("tokens_per_slot", "slots_per_epoch", "rounds"):
        values.integer(f"spec.{name}", spec[name], 1)
    if type(spec["nonce"]) is not str or not _is_nonce(spec["nonce"]):
        raise values.fail("spec.nonce", spec["nonce"], "32 lowercase hex digits")
    if type(spec["config"]) is not dict:
        raise values.fail("spec.config", spec["config"], "an object")
    blobs = spec["blobs"]
    if type(blobs) is not dict or not blobs.keys() >= set(_SPEC_BLOBS):
        raise values.fail("spec.blobs", blobs, "an object with " + ", ".join(_SPEC_BLOBS))
    for name in _SPEC_BLOBS:
        values.blob_id(f"spec.blobs.{name}", blobs[name])
    if "stages" in spec:
        check_stages(spec["stages"], blobs["state"])
    codec.encode(spec)
