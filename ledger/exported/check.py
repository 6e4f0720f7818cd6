"""Checks an exported model offline: that its weights, configuration and tokenizer are those of a certified state.

The card names a run and a state; the proof shows that the run's certified log names that state; the weights give its
id; configuration and tokenizer give the blob ids in the run's spec, whose hash is the run's id.

IO: reads the files of a folder.
"""

import json
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import cast

from ledger import proof
from ledger.entries import Begin, Settle, StageSettle
from ledger.errors import ExportInvalid, LedgerError
from ledger.exported.card import CARD, MAX_CARD, PROOF, Card, parse
from ledger.exported.weights import blob_id, check_weights, state_files
from ledger.genesis import Genesis
from ledger.proof import Proven

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
SAID = ("README.md", "generation_config.json")
"""Files that nothing but the card's signature vouches for."""
WRITTEN_BY_TRANSFORMERS = ("architectures", "dtype", "transformers_version")
"""What `config.json` has beyond the run's model blob."""
MODEL_FORMAT = "p2p-llm-forge/model/v1"
MAX_FILE = 64 << 20
"""The longest configuration or tokenizer file that is read, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a folder proves."""

    card: Card
    """Its card, whose signature was verified."""
    proven: Proven
    """The entry that names the state."""
    weights: tuple[str, ...]
    """The files whose tensors are the state's weights, byte for byte."""
    parameters: int
    """How many weights."""
    tokenizer: tuple[str, ...]
    """The files that are the run's tokenizer."""
    said: tuple[str, ...]
    """The files that are only the word of whoever signed the card."""


def check_folder(folder: Path, genesis: Genesis) -> Exported:
    """What an exported model proves to somebody who trusts a quorum of this genesis's witnesses.

    Raises:
        LedgerError: it proves nothing; the message names the file, the field, what was got and wanted.
    """
    card = parse(_read(folder, CARD, MAX_CARD))
    if card.network != genesis.id:
        raise ExportInvalid(f"{CARD}: network is {card.network}, wanted {genesis.id}, that of {genesis.name!r}")
    data = _read(folder, PROOF, proof.MAX_FILE)
    try:
        proven = proof.check(proof.parse(data), genesis)
    except LedgerError as exc:
        raise LedgerError(exc.code, f"{PROOF}: {exc.message}") from exc
    _check_claim(card, proven)
    files = _check_files(folder, card)
    assert proven.begin is not None
    blobs = cast("dict[str, str]", proven.begin.spec["blobs"])
    weights = tuple(name for name in files if name.endswith(".safetensors"))
    cut = proven.begin.stages
    stages = len(cut.shares) if cut is not None else 0
    parameters = check_weights(folder, [folder / name for name in weights], card.state, stages)
    _same("parameters", card.parameters, parameters, "as many as the state has")
    if INDEX in files:
        _check_index(folder, weights)
    _check_config(folder, blobs["model"])
    known = (*weights, *SAID, CONFIG, INDEX, PROOF, *state_files(stages))
    tokenizer = tuple(name for name in files if name not in known)
    _check_tokenizer(folder, tokenizer, blobs["tokenizer"])
    said = tuple(name for name in SAID if name in files)
    return Exported(card=card, proven=proven, weights=weights, parameters=parameters, tokenizer=tokenizer, said=said)


def _check_claim(card: Card, proven: Proven) -> None:
    """The entry that is proven must be the one that the card is about."""
    entry = proven.entry
    if not isinstance(entry, Settle | StageSettle | Begin) or proven.begin is None:
        raise ExportInvalid(f"{PROOF}: proves an entry of type {entry.type}, wanted settle, which names the state")
    _same("run", card.run, proven.owner.removeprefix("run/"), f"that of {PROOF}")
    _same("name", card.name, proven.begin.spec["name"], "that of the run's spec")
    _same("round", card.round, 0 if isinstance(entry, Begin) else entry.round, f"that of {PROOF}")
    _same("state", card.state, entry.state, f"which {PROOF} shows in the log")


def _same(field: str, got: object, wanted: object, why: str) -> None:
    if got != wanted:
        raise ExportInvalid(f"{CARD}: {field} is {got}, wanted {wanted}, {why}")


def _check_files(folder: Path, card: Card) -> list[str]:
    """Every file is one that the card names, with that hash; hidden ones are not looked at. Returns their names."""
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    } - {CARD}
    for name in sorted(found ^ card.files.keys()):
        got, wanted = ("there", "no such file") if name in found else ("missing", "this file")
        raise ExportInvalid(f"{name}: is {got}, wanted {wanted}, as {CARD} has it")
    for name in sorted(found):
        try:
            with (folder / name).open("rb") as data:
                digest = file_digest(data, "sha256").hexdigest()
        except OSError as exc:
            raise ExportInvalid(f"{name}: cannot be read: {exc.strerror}") from exc
        if digest != card.files[name]:
            raise ExportInvalid(f"{name}: its SHA-256 is {digest}, wanted {card.files[name]}, as {CARD} has it")
    return sorted(found)


def _check_index(folder: Path, weights: tuple[str, ...]) -> None:
    """Where weights lie in several files, the index must name no other file."""
    index = _json(folder, INDEX)
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or set(map(str, named.values())) != set(weights):
        raise ExportInvalid(f"{INDEX}: names other files, wanted {', '.join(weights)}")


def _check_config(folder: Path, wanted: str) -> None:
    """`config.json` must be what the run's model blob says, and nothing else."""
    config = _json(folder, CONFIG)
    if not isinstance(config, dict):
        raise ExportInvalid(f"{CONFIG}: is no object")
    kept = {name: value for name, value in config.items() if name not in WRITTEN_BY_TRANSFORMERS}
    got = blob_id(_canonical(CONFIG, {"format": MODEL_FORMAT, "config": kept}))
    if got != wanted:
        raise ExportInvalid(f"{CONFIG}: gives model blob {got}, wanted {wanted}, that of the run's spec")


def _check_tokenizer(folder: Path, names: tuple[str, ...], wanted: str) -> None:
    """The remaining files together must be the run's tokenizer blob."""
    try:
        texts = {name: _read(folder, name, MAX_FILE).decode() for name in names}
    except UnicodeDecodeError as exc:
        raise ExportInvalid(f"{', '.join(names)}: not text, wanted the files of the run's tokenizer") from exc
    listed = ", ".join(names) or "no files"
    if (got := blob_id(_canonical(listed, texts))) != wanted:
        raise ExportInvalid(f"{listed}: give tokenizer blob {got}, wanted {wanted}, that of the run's spec")


def _canonical(what: str, value: object) -> bytes:
    """The engine's canonical JSON, which unlike the ledger's has fractions, true, false and null."""
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as exc:
        raise ExportInvalid(f"{what}: holds what has no canonical form: {str(exc)[:120]}") from exc


def _json(folder: Path, name: str) -> object:
    try:
        return json.loads(_read(folder, name, MAX_FILE))
    except (ValueError, RecursionError) as exc:
        raise ExportInvalid(f"{name}: is not JSON: {str(exc)[:120]}") from exc


def _read(folder: Path, name: str, limit: int) -> bytes:
    path = folder / name
    try:
        with path.open("rb") as data:
            found = data.read(limit + 1)
    except OSError as exc:
        raise ExportInvalid(f"{path}: cannot be read: {exc.strerror}; wanted the folder of an exported model") from exc
    if len(found) > limit:
        raise ExportInvalid(f"{path}: has over {limit} bytes")
    return found
