"""A replica of one stage: answers forward and backward for the round's microbatches, each counted exactly once.

Requests carry a tag; one of another round or state is answered with what is held instead. A microbatch is done when
its backward was added to the sum of gradients. From then on a repeat is answered with the same bytes and adds nothing,
until `undo` takes it out again: its passes run once more and are subtracted. Where input and gradient of it are no
longer kept, nor given again, `freeze` forgets all that was done, as a restart would, and tells what it lacks. What a
replica has done is its manifest; `write` writes the update of exactly the manifest that the leader wants.

A refusal changes nothing: gradients are looked at before they are added.

Shapes: B sequences of a microbatch, L tokens of a sequence, D hidden size, P parameters of the stage.

IO: reads and writes updates and states in its own folder, each whole or absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from p2p_llm_forge import codec
from p2p_llm_forge.answer import leaves_root
from p2p_llm_forge.blobs import blob_id, read_blob, write_atomic
from p2p_llm_forge.carry import file_name
from p2p_llm_forge.errors import RequestError
from p2p_llm_forge.recent import keep_newest
from p2p_llm_forge.stages.held import Held, Settled
from p2p_llm_forge.stages.passes import Passes
from p2p_llm_forge.stages.shelf import Rank, Shelf, What
from p2p_llm_forge.stages.tags import Answer, Done, Part, Tag, Written
from p2p_llm_forge.stages.work import Work

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class Replica:
    """One stage in this process. All methods belong to one thread."""

    def __init__(
        self, stage: nn.Module, part: Part, held: Held, *,
        device: torch.device, keep_bytes: int, keep_passes: int, folder: Path,
    ) -> None:  # fmt: skip
        """Serve this stage.

        Args:
            stage: its module, whose parameters are those of the state's layout.
            keep_bytes: for inputs, replies and records of the round under way.
            keep_passes: so many forward passes are kept whole, so that their backward need not run them again.
            folder: where updates go.
        """
        self.part, self.held = part, held
        self.round = self.start = self.microbatches = 0
        self._passes = Passes(
            stage, held.layout, first=part.first, setting=held.spec.precision, room=keep_passes, device=device
        )
        self._passes.take(held.state.weights_P)
        self.work = Work(part, self._passes, held.layout, held.spec)
        self._sum_P = self._passes.zeros()
        self._shelf = Shelf(keep_bytes)
        self._done: dict[int, Done] = {}
        self._folder = folder
        self._owed: tuple[str, Tensor] | None = None  # What rounding took of the update of this id.
        self._carried_P: Tensor | None = None  # What rounding took of the update before, once it was applied.

    # ------------------------------------------------------------------ rounds

    def begin(self, round_number: int, start: int, microbatches: int, *, anew: bool = False) -> None:
        """Serve these microbatches from now on, the first of which begins at slot `start`; once again: go on."""
        if anew or (self.round, self.start, self.microbatches) != (round_number, start, microbatches):
            self._reset()
            self._shelf.clear()
            self._passes.forget()
            self.round, self.start, self.microbatches = round_number, start, microbatches

    def _reset(self) -> None:
        """Nothing is done; what waits for its backward still waits."""
        self._sum_P.zero_()
        for number in self._done:
            self._shelf.forget(number)
        self._done.clear()

    def spare(self) -> None:
        """Memory is short: keep no forward pass whole."""
        self._passes.forget()

    def manifest(self) -> list[int]:
        """The microbatches that are done."""
        return sorted(self._done)

    # ------------------------------------------------------------------ passes

    def forward(self, tag: Tag, x: Buffer) -> Answer:
        """The stage's output.

        Raises:
            RequestError: no such microbatch, or the last stage. ActivationError: not such an input, or the output is
                not finite.
        """
        if self._stale(tag):
            return Answer(kind="stale")
        if self.part.last:
            raise RequestError("forward: the last stage only answers backward, with targets")
        number = tag.microbatch
        known, output = self._shelf.get(What.INPUT, number), self._shelf.get(What.OUTPUT, number)
        if output is not None and _same(known, x):
            return Answer(kind="done", data=output)
        if known is None and number not in self._done and not self._shelf.fits(memoryview(x).nbytes):
            return Answer(kind="busy")
        data = self.work.forward(self.round, number, x, keep=number not in self._done)
        if number not in self._done:
            self._shelf.put(What.INPUT, number, x, Rank.NEEDED)
            self._shelf.put(What.OUTPUT, number, data, Rank.REPLY)
        return Answer(kind="done", data=data)

    def backward(self, tag: Tag, x: Buffer | None, gradient: Buffer) -> Answer:
        """The gradient of the stage's input; the parameters' gradients are in the sum then.

        Args:
            x: the input; None: the one that forward was given.
            gradient: of the output; the last stage's: the targets.

        Raises:
            RequestError: no such microbatch. ActivationError: not such an input or gradient, or what it leads to is
                not finite or out of bounds.
        """
        if self._stale(tag):
            return Answer(kind="stale")
        number = tag.microbatch
        if number in self._done:
            return self._again(number, x, gradient)
        known = self._shelf.get(What.INPUT, number)
        given = known if x is None else x
        if given is None:
            return Answer(kind="missing")
        found = self.work.backward(self.round, number, given, gradient, tag.tokens, kept=x is None or _same(known, x))
        data = self.work.answer(found)
        losses = [0.0] * self.part.sequences if found.losses_B is None else found.losses_B.tolist()
        done = Done(
            tokens=tag.tokens, digest=_digest(given, gradient), losses=tuple(round(loss * 1e6) for loss in losses)
        )
        self._passes.add(self._sum_P, found, 1)
        self._done[number] = done
        self._shelf.forget(number)
        self._shelf.put(What.INPUT, number, given, Rank.RECORD)
        self._shelf.put(What.GRADIENT, number, gradient, Rank.RECORD)
        self._shelf.put(What.ANSWER, number, data, Rank.REPLY)
        return Answer(kind="done", data=data, loss=done.loss)

    def undo(self, tag: Tag, x: Buffer | None = None, gradient: Buffer | None = None) -> Answer:
        """Take a microbatch out of the sum again, or forget its input if that waits for a backward that never comes;
        missing: input and gradient are not kept, so they have to be given.

        Raises:
            RequestError: no such microbatch.
        """
        if self._stale(tag):
            return Answer(kind="stale")
        return Answer(kind="done" if self._undo(tag.microbatch, x, gradient) else "missing")

    def confirm(self, microbatches: Collection[int]) -> None:
        """Their replies have arrived and are recorded: they need not be kept."""
        for number in microbatches:
            self._shelf.drop((What.ANSWER, number))

    # ------------------------------------------------------------------ the end of a round

    def freeze(self, manifest: Collection[int]) -> list[int]:
        """Undo what is done beyond this manifest; returns what of it is not done."""
        surplus = sorted(set(self._done) - set(manifest))
        all_of_it = len(surplus) == len(self._done)  # then nothing has to be computed, and no rounding is left behind
        if surplus and (all_of_it or not all(self._undo(number, None, None) for number in surplus)):
            self._reset()
        return sorted(set(manifest) - set(self._done))

    def write(self, manifest: Collection[int]) -> Written:
        """Write the update over exactly this manifest.

        Raises:
            RequestError: another manifest is done. UpdateError: not finite. DiskError.
        """
        if not manifest or set(manifest) != set(self._done):
            lacking, beyond = set(manifest) - set(self._done), set(self._done) - set(manifest)
            raise RequestError(
                f"write: {len(self._done)} microbatches are done; {len(lacking)} of {len(set(manifest))} are lacking, "
                f"{len(beyond)} beyond them; freeze first"
            )
        sum_P, spec = self._sum_P.to("cpu", copy=True), self.held.spec.codec
        if self._carried_P is not None:
            sum_P.add_(self._carried_P * spec.decay)
        data, sent = codec.encode(sum_P, spec)
        name = blob_id(data)
        path = self._folder / file_name(name)
        write_atomic(path, [data])
        keep_newest(self._folder, "*.update", path)
        if spec.kind != "f32":
            sent.subtract_from(sum_P)
            self._owed = (name, sum_P)
        leaves = [
            (self.start + number * self.part.sequences + row, loss)
            for number in self.manifest()
            for row, loss in enumerate(self._done[number].losses)
        ]
        return Written(
            path=path, tokens=sum(done.tokens for done in self._done.values()), leaves=leaves_root(leaves),
            loss=round(sum(loss for _, loss in leaves) / len(leaves)),
        )  # fmt: skip

    def apply(self, state: str, round_number: int, own: Settled, theirs: Settled, norms: Sequence[str]) -> Path:
        """Take the round's step, as `Held.apply`; nothing of the next round is done yet."""
        mine = [Path(item.path) for item in own if item.mine]
        path = self.held.apply(state, round_number, own, theirs, norms)
        owed, self._owed, self._carried_P = self._owed, None, None
        if owed is not None and any(_id(file) == owed[0] for file in mine):
            self._carried_P = owed[1]  # A gradient that was not settled is never sent, nor is what it owed.
        self._moved()
        return path

    def load(self, path: Path) -> None:
        """Go on with another state, as `Held.load`."""
        self.held.load(path)
        self._owed = self._carried_P = None
        self._moved()

    def _moved(self) -> None:
        self._passes.take(self.held.state.weights_P)
        self.begin(0, 0, 0)

    # ------------------------------------------------------------------ parts of the above

    def _stale(self, tag: Tag) -> bool:
        """Whether it is of another round or state; raises RequestError if there is no such microbatch."""
        if (tag.round, tag.state) != (self.round, self.held.id):
            return True
        most = self.part.sequences * self.part.length
        if not 0 <= tag.microbatch < self.microbatches:
            raise RequestError(f"microbatch {tag.microbatch}: round {self.round} has {self.microbatches}, from 0")
        if not 1 <= tag.tokens <= most:
            raise RequestError(f"microbatch {tag.microbatch}: {tag.tokens} valid tokens, wanted 1 … {most}")
        return False

    def _record(self, number: int, x: Buffer | None, gradient: Buffer | None) -> tuple[Buffer, Buffer] | None:
        """Input and gradient of a microbatch that is done: as kept, or as given again."""
        kept, kept_gradient = self._shelf.get(What.INPUT, number), self._shelf.get(What.GRADIENT, number)
        x, gradient = kept if kept is not None else x, kept_gradient if kept_gradient is not None else gradient
        if x is None or gradient is None or _digest(x, gradient) != self._done[number].digest:
            return None
        return x, gradient

    def _again(self, number: int, x: Buffer | None, gradient: Buffer) -> Answer:
        """The answer to a backward that was done before."""
        done, data = self._done[number], self._shelf.get(What.ANSWER, number)
        if data is None:
            if (record := self._record(number, x, gradient)) is None:
                return Answer(kind="missing")
            data = self.work.answer(self.work.backward(self.round, number, *record, done.tokens))
            self._shelf.put(What.ANSWER, number, data, Rank.REPLY)
        return Answer(kind="done", data=data, loss=done.loss)

    def _undo(self, number: int, x: Buffer | None, gradient: Buffer | None) -> bool:
        """Whether the microbatch is in the sum no more."""
        if number not in self._done:
            self._shelf.forget(number)
            self._passes.forget(number)
            return True
        if (record := self._record(number, x, gradient)) is None:
            return False
        found = self.work.backward(self.round, number, *record, self._done[number].tokens)
        self._passes.add(self._sum_P, found, -1)
        del self._done[number]
        self._shelf.forget(number)
        if not self._done:
            self._sum_P.zero_()  # of the roundings nothing is left behind either
        return True


def _same(kept: bytes | None, x: Buffer) -> bool:
    return kept is not None and kept == bytes(x)  # byte strings are compared far quicker than views are


def _digest(x: Buffer, gradient: Buffer) -> bytes:
    digest = hashlib.sha256(memoryview(x).nbytes.to_bytes(8, "big"))
    digest.update(x)
    digest.update(gradient)
    return digest.digest()


def _id(update: Path) -> str:
    return blob_id(read_blob(update, update.stat().st_size, "own update"))
