"""A state's id, recomputed from an exported model: safetensors files hold the weights, `provenance/state` the rest.

A state's canonical bytes are a header, the weights as fp32 in the header's order, and the outer optimizer's tensors;
its id is the RFC 6962 root over their 1 MiB chunks, and their length. The file `provenance/state` has the header, then
what follows the weights up to the end of the chunk in which they end, then the leaf hash (32 bytes) of each chunk after
that. In a run with stages each stage has a state of its own, and `provenance/state-0`, `provenance/state-1` … its rest;
a tensor may be in the states of several stages, with the same bytes. A group of experts has slices of tensors in its
state: `NAME[2:4]` is rows 2 and 3 of NAME, and the slices of all groups make up all of it.

IO: reads the files of a folder.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ledger.errors import ExportInvalid
from ledger.merkle import leaf_hash, root
from ledger.stages import run_state

STATE = "provenance/state"
CHUNK_BYTES = 1 << 20
MAX_HEADER = 64 << 20
"""The longest safetensors header that is read."""
OUTER = "outer."
"""What the names of the outer optimizer's tensors begin with."""
_VALUE_BYTES = 4
_is_slice = re.compile(r"(.+)\[([0-9]{1,9}):([0-9]{1,9})\]").fullmatch


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A tensor in a safetensors file."""

    file: Path
    """Which file."""
    start: int
    """Its first byte there."""
    length: int
    """Its bytes."""
    shape: tuple[int, ...]
    """Its shape; fp32."""


def blob_id(data: bytes) -> str:
    """The id of these bytes as a blob."""
    leaves = (leaf_hash(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
    return f"{root(leaves).hex()}-{len(data)}"


def state_files(stages: int) -> tuple[str, ...]:
    """The files that hold what the weights leave of a state; of a model that is not cut, 0 stages, it is one."""
    return tuple(f"{STATE}-{stage}" for stage in range(stages)) or (STATE,)


def check_weights(folder: Path, files: Sequence[Path], state: str, stages: int = 0) -> int:
    """Check that the safetensors files hold exactly the weights of this state; returns their number.

    Raises:
        ExportInvalid: they do not; the message says what differs as far as that can be told.
    """
    rests = [folder / name for name in state_files(stages)]
    headers = [_read_header(rest) for rest in rests]
    held = _held(files)
    weights = [{name: placed for name, placed in known.items() if not name.startswith(OUTER)} for known, _ in headers]
    held = _in_slices(held, {name for names in weights for name in names})
    _check_names(held, dict(zip(state_files(stages), weights, strict=True)))
    ids = [
        _state_id(rest, *header, [held[name] for name in names])
        for rest, header, names in zip(rests, headers, weights, strict=True)
    ]
    found = run_state(ids) if stages else ids[0]
    if found != state:
        names = ", ".join(file.name for file in files)
        states = ", ".join(state_files(stages))
        raise ExportInvalid(f"{names}: the weights and {states} give state {found}, wanted {state}, that of the log")
    return sum(placed.length for placed in held.values()) // _VALUE_BYTES


def _state_id(rest: Path, known: dict[str, Placed], header: bytes, weights: Sequence[Placed]) -> str:
    """The id of the state that has these weights, and of everything else what its file says."""
    total = max((placed.start + placed.length for placed in known.values()), default=len(header))
    end = len(header) + sum(placed.length for placed in weights)
    edge = min(-(-end // CHUNK_BYTES) * CHUNK_BYTES, total)
    tail, leaves = _read_rest(rest, len(header), edge - end, -(-(total - edge) // CHUNK_BYTES))
    return f"{root([*_leaves(_parts(header, weights, tail)), *leaves]).hex()}-{total}"


def _held(files: Sequence[Path]) -> dict[str, Placed]:
    """All tensors of these files."""
    held: dict[str, Placed] = {}
    for file in files:
        found = _read_header(file)[0]
        for name in found.keys() & held.keys():
            raise ExportInvalid(f"{file.name}: {name}: is in {held[name].file.name} too, wanted one of each name")
        held |= found
    return held


def _in_slices(held: dict[str, Placed], names: set[str]) -> dict[str, Placed]:
    """The same tensors, but those that the states have in slices as these slices, which cover all of them."""
    spans: dict[str, list[tuple[int, int, str]]] = {}
    for name in names - held.keys():
        found = _is_slice(name)
        if found is not None and found[1] in held:
            spans.setdefault(found[1], []).append((int(found[2]), int(found[3]), name))
    cut = {name: placed for name, placed in held.items() if name not in spans}
    for whole, slices in spans.items():
        placed, at = held[whole], 0
        rows = placed.shape[0] if placed.shape else 0
        row_bytes = placed.length // max(rows, 1)
        for first, last, name in sorted(slices):
            if first != at or not first < last <= rows:
                raise ExportInvalid(f"{placed.file.name}: {name}: wanted rows from {at} on, of {rows}")
            shape = (last - first, *placed.shape[1:])
            cut[name] = replace(
                placed, start=placed.start + first * row_bytes, length=(last - first) * row_bytes, shape=shape
            )
            at = last
        if at != rows:
            raise ExportInvalid(f"{placed.file.name}: {whole}: the states have {at} of its {rows} rows")
    return cut


def _check_names(held: dict[str, Placed], weights: dict[str, dict[str, Placed]]) -> None:
    """The files hold the tensors that the state has, or by their files those of the stages, no more and no others."""
    for state, wanted in weights.items():
        for name in sorted(wanted.keys() - held.keys()):
            raise ExportInvalid(f"*.safetensors: {name}: is missing, wanted as in {state}")
        for name, placed in wanted.items():
            if held[name].shape != placed.shape:
                got = f"shape is {list(held[name].shape)}, wanted {list(placed.shape)}"
                raise ExportInvalid(f"{held[name].file.name}: {name}: {got}, as in {state}")
    for name in sorted(held.keys() - {name for wanted in weights.values() for name in wanted}):
        states = ", ".join(weights)
        raise ExportInvalid(f"{held[name].file.name}: {name}: is no tensor of the state, wanted none, as in {states}")


def _read_header(file: Path) -> tuple[dict[str, Placed], bytes]:
    """The tensors of a safetensors file in the order of their bytes, and its header's bytes; nothing lies between."""
    try:
        with file.open("rb") as data:
            size = int.from_bytes(prefix := data.read(8), "little")
            text = data.read(size) if size <= MAX_HEADER else b""
    except OSError as exc:
        raise ExportInvalid(f"{file}: cannot be read: {exc.strerror}") from exc
    if len(prefix) != 8 or size > MAX_HEADER or len(text) != size:
        raise ExportInvalid(f"{file}: is no safetensors file: it ends within its header")
    try:
        entries = json.loads(text, object_pairs_hook=_once)
        placed = [(name, _placed(file, 8 + size, entry)) for name, entry in entries.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ExportInvalid(f"{file}: is no safetensors file of fp32 tensors: {str(exc)[:120]}") from exc
    at = 8 + size
    placed.sort(key=lambda item: (item[1].start, item[1].length))
    for name, tensor in placed:
        if tensor.start != at:
            raise ExportInvalid(f"{file}: {name}: begins at byte {tensor.start}, wanted {at}, the end of what precedes")
        at += tensor.length
    return dict(placed), prefix + text


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _placed(file: Path, base: int, entry: dict[str, object]) -> Placed:
    start, end = cast("tuple[int, int]", entry["data_offsets"])
    shape = tuple(cast("list[int]", entry["shape"]))
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError("a shape or offset is not a whole number")
    if entry["dtype"] != "F32" or end - start != _VALUE_BYTES * math.prod(shape):
        raise ValueError(f"a tensor of {entry['dtype']!r}, shape {list(shape)} and {end - start} bytes, wanted F32")
    return Placed(file=file, start=base + start, length=end - start, shape=shape)


def _read_rest(file: Path, start: int, length: int, count: int) -> tuple[bytes, list[bytes]]:
    """What `provenance/state` has beyond the header: bytes, and leaf hashes."""
    size, wanted = file.stat().st_size, start + length + 32 * count
    if size != wanted:
        raise ExportInvalid(f"{file}: has {size} bytes, wanted {wanted} by its header")
    with file.open("rb") as data:
        data.seek(start)
        tail = data.read(length)
        return tail, [data.read(32) for _ in range(count)]


def _parts(header: bytes, weights: Iterable[Placed], tail: bytes) -> Iterator[bytes]:
    """The canonical bytes up to the end of `tail`, in pieces."""
    yield header
    for placed in weights:
        with placed.file.open("rb") as data:
            data.seek(placed.start)
            left = placed.length
            while left:
                piece = data.read(min(left, CHUNK_BYTES))
                if not piece:
                    raise ExportInvalid(f"{placed.file}: ends {left} bytes before its last tensor does")
                left -= len(piece)
                yield piece
    yield tail


def _leaves(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The leaf hashes of the chunks of these bytes; at the end of the file, of a shorter one too."""
    chunk = bytearray()
    for part in parts:
        chunk += part
        while len(chunk) >= CHUNK_BYTES:
            yield leaf_hash(bytes(chunk[:CHUNK_BYTES]))
            del chunk[:CHUNK_BYTES]
    if chunk:
        yield leaf_hash(bytes(chunk))
