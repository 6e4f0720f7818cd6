"""A member's side of one run: holds the state, trains, checks and applies updates.

Nothing changes when a method raises: a new state replaces the old one only after its file is there. Updates and states
are safe from the death of this process, not from a power cut: nobody believes such a file before the blob store has
hashed and synced it.

IO: reads blobs; writes updates and states into its own folder, each whole or absent.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p2p_llm_forge import ahead as work_ahead
from p2p_llm_forge import answer, codec, memory, model, outer
from p2p_llm_forge.blobs import blob_id, encode_json, read_blob, write_atomic
from p2p_llm_forge.carry import Carry, file_name
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data import tokenize
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards, load_manifest
from p2p_llm_forge.errors import BlobError, DoesNotFit, RequestError, StateError, UpdateError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.inner import InnerTrainer, Read, Report
from p2p_llm_forge.kept import Kept, Label
from p2p_llm_forge.memory import Room
from p2p_llm_forge.microbatch import Choice, out_of_memory
from p2p_llm_forge.protocol import Ahead, Contribution, Open, Settled
from p2p_llm_forge.recent import keep_newest
from p2p_llm_forge.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Wall seconds of the parts of an apply."""

    marks: dict[str, float]

    def lap(self, name: str, since: float) -> float:
        """Note the time since `since` under `name`; returns now."""
        now = time.perf_counter()
        self.marks[name] = round(now - since, 6)
        return now


class Engine:
    """One open run. All methods but `check` belong to one thread."""

    def __init__(self, request: Open, folder: Path, device: torch.device) -> None:
        """Build the model, map the data, load the state.

        Raises:
            EngineError: the first blob that does not fit the others, or the memory.
        """
        self.spec = RunSpec.from_canonical(request.config)
        self.folder, self.device = folder, device
        self.seed = self.spec.seed if request.seed is None else request.seed
        training = self.spec.training
        self.tokenizer = tokenize.load(read_blob(Path(request.tokenizer), tokenize.LIMIT_BYTES, "tokenizer blob"))
        self.manifest = load_manifest(Path(request.manifest))
        self._shards = Shards(self.manifest, [Path(path) for path in request.shards]) if request.shards else None
        self.model_blob = read_blob(Path(request.model), model.LIMIT_BYTES, "model blob")
        self.config = model.config_from_blob(self.model_blob)
        self._check_blobs_agree()
        room = Room.on(device, request.memory_bytes)
        need = memory.estimate(
            self.config,
            sequences=1 if training.micro_batch_size == "auto" else training.micro_batch_size,
            sequence_length=self.manifest.sequence_length,
            moments=len(training.outer.moments),
            own_steps=training.mode == "local",
            overlap=training.overlap,
        )
        memory.check_fits(need, room.main_bytes, room.gpu_bytes)
        built = model.build(self.config, self.spec.seed)
        self.layout = Layout.of(built, training.outer)
        self.state = State.load(Path(request.state), self.layout)
        self.state_id = self.state.id(torch.get_num_threads())
        self.inner = InnerTrainer(built, self.layout, training, device)
        self.micro_batch = self._choose(need, room) if self._shards and training.micro_batch_size == "auto" else None
        """What was chosen at the start, where that was ours to do."""
        config = hashlib.sha256(encode_json(request.config)).hexdigest()
        self.kept = Kept(folder / "kept", self.layout, config=config, on=request.keep)
        self.carry = Carry(
            kept=self.kept, updates=folder / "updates", spec=training.codec, inner=self.inner,
            now_or_never=training.mode == "synchronous",
        )  # fmt: skip
        self._work: work_ahead.Work | None = None

    def _check_blobs_agree(self) -> None:
        length, rows = self.manifest.sequence_length, model.vocabulary(self.config)
        if length != self.spec.data.sequence_length:
            raise BlobError(f"manifest: sequence_length is {length}, the spec says {self.spec.data.sequence_length}")
        if self.manifest.vocab_size > rows or self.tokenizer.vocab_size > rows:
            raise BlobError(f"tokenizer blob: {self.tokenizer.vocab_size} tokens, the model's vocabulary has {rows}")

    def _choose(self, need: memory.Estimate, room: Room) -> Choice:
        """Have the trainer take as many sequences at once as fit. Raises DoesNotFit."""
        try:
            choice = self.inner.fit(
                sequence_length=self.manifest.sequence_length,
                each_bytes=need.activation_bytes,
                free_bytes=room.beside(need),
            )
        except (RuntimeError, MemoryError) as exc:
            if not out_of_memory(exc):
                raise
            raise DoesNotFit("model: not even one sequence fits; choose a smaller model or sequence_length") from exc
        return choice

    def train(
        self, *, round_number: int, start: int, count: int, seconds: float, stopped: Callable[[], bool], report: Report,
        settled: Sequence[Settled] | None = None, ahead: Ahead | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Train on slots start … start+count-1 and write the update; ahead of its round, keep the change for `finish`.

        Args:
            settled: our updates that the log settled of late, as in `protocol.Train`.
            ahead: where to start instead of the shared state.

        Raises:
            RequestError: opened without shards. UpdateError: training diverged. DiskError: the update was not written.
        """
        sampler = self._sampler()
        needed = min(count, self.spec.training.inner_steps * self.spec.training.batch_size)
        if self._work is not None:
            self._work = None
            self.carry.rewind(round_number)
        self.carry.recall(round_number)
        start_P = self.state.weights_P if ahead is None else self.start_of(round_number, ahead)
        self.inner.take(start_P)
        result = self.inner.train(
            self._reader(sampler.windows(start, needed)),
            slots=needed,
            round_number=round_number,
            seed=self.seed,
            deadline_s=time.monotonic() + seconds,
            stopped=stopped,
            report=report,
        )
        reply = answer.trained(
            result, start=start, sequence_length=self.manifest.sequence_length, micro_batch=self.inner.micro
        )
        if result.steps:
            change_P = self.inner.change(start_P)
            if ahead is not None:
                self._work = work_ahead.Work(round=round_number, change_P=change_P, reply=reply)
                return reply
            reply["update"] = str(self._write_update(round_number, change_P, settled))
        return {**reply, **self.carry.told()}

    def start_of(self, round_number: int, ahead: Ahead) -> Tensor:
        """Where work ahead of round `round_number` starts [P], from blobs alone; changes nothing.

        Raises:
            StateError, UpdateError, DiskError: a blob is another one than named, or none of this run's.
        """
        before = self.state
        if self.state_id != ahead.state:
            before = State.load(Path(ahead.path), self.layout)
            if (found := before.id(torch.get_num_threads())) != ahead.state:
                raise StateError(f"state {Path(ahead.path).name}: it is {found}, wanted {ahead.state}")
        update, _ = self._decode(Path(ahead.update))
        return work_ahead.start(before, update, self.spec.training, round_number - 1)

    def finish(self, *, round_number: int, settled: Sequence[Settled] | None = None) -> dict[str, Any]:
        """Write the update of the work ahead, now that its round is open; answers as `train`.

        Raises:
            RequestError: nothing was trained ahead of this round. UpdateError, DiskError: as for `train`.
        """
        work = self._work
        if work is None or work.round != round_number:
            raise RequestError(f"finish: nothing was trained ahead of round {round_number}; train it")
        update = str(self._write_update(round_number, work.change_P.clone(), settled))
        self._work = None
        return {**work.reply, "update": update, **self.carry.told()}

    def _write_update(self, round_number: int, change_P: Tensor, settled: Sequence[Settled] | None) -> Path:
        """Fold the round's change into the residual and encode what is sent of it."""
        training = self.spec.training
        if not is_finite(change_P):
            self.inner.reset()
            raise UpdateError("own update: not finite, the training diverged; lower training.learning_rate")
        if (carried_P := self.carry.carried(round_number, settled)) is not None:
            change_P.add_(carried_P)
        data, _ = codec.encode(change_P, training.codec)
        name = blob_id(data)
        path = self.folder / "updates" / file_name(name)
        write_atomic(path, [data], durable=False)
        keep_newest(path.parent, "*.update", path)
        self.carry.leave(Label(round=round_number, state=self.state_id, update=name), change_P)
        return path

    def check(self, path: Path) -> dict[str, Any]:
        """Decode an update strictly; safe beside `train`.

        Raises:
            UpdateError: also for one that is zero throughout, which no training comes to. DiskError.
        """
        update, _ = self._decode(path)
        found = outer.check_norm(update, self.spec.max_update_rms)
        if found == 0.0:
            raise UpdateError(f"update {path.name}: empty: all of its {update.count} values are zero")
        return {"values": update.count, "norm_units": round(found * 1e6)}

    def _decode(self, path: Path) -> tuple[codec.Update, bytes]:
        spec, size = self.spec.training.codec, self.layout.parameters
        limit = codec.encoded_bytes(spec, size)
        try:
            data = read_blob(path, limit, "update")
        except BlobError as exc:
            raise UpdateError(f"update {path.name}: oversize, expected {limit} bytes") from exc
        try:
            return codec.decode(data, spec, size), data
        except UpdateError as exc:
            raise UpdateError(exc.message.replace("update", f"update {path.name}", 1)) from exc

    def apply(self, round_number: int, contributions: Sequence[Contribution]) -> dict[str, Any]:
        """Move the state by the settled updates, in the order given, and write it.

        Raises:
            UpdateError, DiskError: with the state and the files as before.
        """
        clock = Clock(marks={})
        began = now = time.perf_counter()
        training = self.spec.training
        decoded = [self._decode(Path(item.path)) for item in contributions]
        updates = [update for update, _ in decoded]
        norms = [outer.check_norm(update, self.spec.max_update_rms) for update in updates]
        now = clock.lap("decode", now)
        new = self.state.copy()
        if updates:
            tokens = [item.tokens for item in contributions]
            mean_P = outer.combine(updates, tokens, norms, training)
            now = clock.lap("aggregate", now)
            outer.step(new, mean_P, training, round_number)
            if not new.is_finite():
                raise UpdateError(f"round {round_number}: the settled updates lead to values that are not finite")
        now = clock.lap("outer", now)
        new_id = new.id(torch.get_num_threads())
        now = clock.lap("hash", now)
        path = self._write_state(new, new_id)
        self.carry.applied([blob_id(data) for item, (_, data) in zip(contributions, decoded, strict=True) if item.mine])
        self.state, self.state_id = new, new_id
        clock.lap("write", now)
        clock.lap("total", began)
        return {"state": new_id, "path": str(path), "seconds": {"aggregate": 0.0, **clock.marks}}

    def _write_state(self, state: State, name: str) -> Path:
        path = self.folder / "states" / f"{name.partition('-')[0]}.safetensors"
        state.write(path, durable=False)
        keep_newest(path.parent, "*.safetensors", path)
        return path

    def load(self, path: Path) -> str:
        """Take over another state. Raises StateError, DiskError."""
        state = State.load(path, self.layout)
        self.state, self.state_id = state, state.id(torch.get_num_threads())
        self.carry.jumped()
        return self.state_id

    def evaluate(self, sequences: int) -> dict[str, Any]:
        """Mean held-out loss of the shared state in micro-nats.

        Raises:
            RequestError: nothing is held out. StateError: the loss is not finite.
        """
        windows = self._sampler().held_out(sequences)
        if not len(windows):
            raise RequestError("evaluate: the run holds nothing out; set data.held_out above 0")
        self.inner.take(self.state.weights_P)
        loss = self.inner.evaluate(self._reader(windows), len(windows))
        if not 0.0 <= loss < 1e6:
            raise StateError(f"evaluate: the loss of this state is {loss}")
        return {"loss": round(loss * 1e6), "tokens": len(windows) * self.manifest.sequence_length}

    def _sampler(self) -> Sampler:
        if self._shards is None:
            raise RequestError("this run was opened without shards; open it with them to train or evaluate")
        return Sampler(
            seed=self.spec.seed,
            train_slots=self.manifest.train_slots,
            held_out_slots=self.manifest.held_out_slots,
        )

    def _reader(self, windows: Any) -> Read:
        shards = self._shards
        assert shards is not None
        return lambda first, count: torch.from_numpy(shards.read(windows[first : first + count]))
