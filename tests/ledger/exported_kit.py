"""An exported model without a training engine: small tensors, a run whose log names their state, a signed card.

IO: files in the folder it is given, a store beside them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ledger import proof
from ledger.entries import Begin, Entry, Open, Seat, Settle, run_id
from ledger.exported.card import CARD, PROOF, Card, readme
from ledger.exported.weights import STATE, blob_id
from ledger.merkle import leaf_hash
from ledger.store.store import Store

from .world import ALICE, GENESIS, certify, spec_of

CHUNK = 1 << 20
CONFIG = {"model_type": "gpt2", "layer_norm_epsilon": 1e-05, "tie_word_embeddings": True, "n_inner": None}
TOKENIZER = {"tokenizer.json": '{"version":"1.0"}', "tokenizer_config.json": "{}"}
SHAPES = {"a.weight": (500, 400), "b.bias": (3,), "c.weight": (700, 200)}
"""Of the weights: 1.36 MB, so that they end in the second of their chunks."""
ROUND = 2

Tensors = Mapping[str, tuple[tuple[int, ...], bytes]]


def values(name: str, shape: Sequence[int]) -> bytes:
    """The bytes of a tensor, the same for the same name."""
    count = 4
    for number in shape:
        count *= number
    block = sha256(name.encode()).digest()
    return (block * (count // len(block) + 1))[:count]


WEIGHTS: Tensors = {name: (shape, values(name, shape)) for name, shape in SHAPES.items()}


def safetensors(tensors: Tensors, metadata: Mapping[str, str], align: int = 8) -> bytes:
    """A safetensors file of fp32 tensors in the order given."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, (shape, data) in tensors.items():
        header[name] = {"data_offsets": [at, at + len(data)], "dtype": "F32", "shape": list(shape)}
        at += len(data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, data in tensors.values())


def state_of(outer: bool) -> tuple[bytes, int]:
    """The canonical state of the weights, and where they end in it."""
    size = sum(len(data) for _, data in WEIGHTS.values())
    more: Tensors = {"outer.momentum": ((size // 4,), values("momentum", (size // 4,)))} if outer else {}
    data = safetensors({**WEIGHTS, **more}, {"format": "p2p-llm-forge/state/v1"}, align=64)
    return data, len(data) - sum(len(data) for _, data in more.values())


def besides(state: bytes, end: int) -> bytes:
    """What `provenance/state` holds of a state whose weights end there."""
    start = 8 + int.from_bytes(state[:8], "little")
    edge = min(-(-end // CHUNK) * CHUNK, len(state))
    leaves = [leaf_hash(state[at : at + CHUNK]) for at in range(edge, len(state), CHUNK)]
    return state[:start] + state[end:edge] + b"".join(leaves)


def canonical(value: object) -> bytes:
    """The engine's JSON."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, kw_only=True)
class Model:
    """An exported folder and what it was made of."""

    folder: Path
    card: Card
    log: tuple[Entry, ...]
    store: Path

    def sign(self, **changes: object) -> None:
        """Write the card anew, with the files as they are, signed by Alice."""
        found = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        files = {path.relative_to(self.folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in found}
        files.pop(CARD, None)
        card = replace(self.card, **{"files": files, **changes})  # type: ignore[arg-type]
        (self.folder / CARD).write_bytes(card.signed(ALICE).encode())

    def prove(self, index: int) -> bytes:
        """The proof of an entry of the run's log."""
        with Store.open(self.store, GENESIS, read_only=True) as store:
            origin = GENESIS.run_origin(run_id(self.log[0].spec))  # type: ignore[attr-defined]
            return proof.write(store.inclusion(origin, index), self.log[index].encode(), self.log[0].encode())


def make(folder: Path, *, outer: bool = True, nonce: str = "0" * 32) -> Model:
    """Export the state after round 2 into `folder`; runs of other nonces are other runs."""
    state, end = state_of(outer)
    blobs = {
        "model": blob_id(canonical({"format": "p2p-llm-forge/model/v1", "config": CONFIG})),
        "tokenizer": blob_id(canonical(TOKENIZER)), "manifest": blob_id(b"manifest"), "state": blob_id(b"first"),
    }  # fmt: skip
    spec = spec_of(blobs=dict(blobs), nonce=nonce)
    states = [blobs["state"], blob_id(b"second"), blob_id(state)]
    log: list[Entry] = [Begin(spec=spec)]
    for number in (1, 2):
        log.append(Open(round=number, state=states[number - 1], roster=(Seat(ALICE.public, 10 * number, 10),)))
        log.append(Settle(round=number, receipts=(), state=states[number]))
    run = run_id(spec)
    model = Model(
        folder=folder, log=tuple(log), store=folder.with_suffix(".db"),
        card=Card(
            network=GENESIS.id, network_name=GENESIS.name, run=run, name="tiny", round=ROUND, state=states[2],
            parameters=len(b"".join(data for _, data in WEIGHTS.values())) // 4, tokens=0, members=(), loss=0,
            validation=(), files={}, account=ALICE.public,
        ),
    )  # fmt: skip
    with Store.open(model.store, GENESIS, create=True) as store:
        store.append(GENESIS.run_origin(run), log, ALICE)
        certify(store, GENESIS.run_origin(run))
    (folder / "provenance").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors(dict(reversed(WEIGHTS.items())), {"format": "pt"}))
    written = {**CONFIG, "architectures": ["GPT2LMHeadModel"], "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(written, indent=2))
    for name, text in TOKENIZER.items():
        (folder / name).write_text(text)
    (folder / STATE).write_bytes(besides(state, end))
    (folder / PROOF).write_bytes(model.prove(4))
    (folder / "README.md").write_text(readme(model.card, 1, 1))
    model.sign()
    return model
