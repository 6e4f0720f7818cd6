"""A replica of an expert shard: answers the calls of the round's microbatches, each counted exactly once.

As `stages.replica` does it for a stage: calls carry a tag, and one of another round or state is answered with `stale`.
A forward call leaves nothing behind. A backward call carries the tokens as well; the gradients of the experts' weights
of the SUM of token losses are added up once for each microbatch and layer. A repeat gets the same reply and adds
nothing, until `undo` takes the microbatch out again: its passes run once more and are subtracted. Where the calls of it
are no longer kept, nor given again, `freeze` forgets all that was done, as a restart would, and tells what it lacks.

A refusal changes nothing: gradients are looked at before they are added.

Shapes: P parameters of the shard, S token-expert pairs of a call, D hidden size.

IO: reads and writes updates and states in its own folders, each whole or absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from p2p_llm_forge.answer import leaves_root
from p2p_llm_forge.errors import ActivationError, RequestError
from p2p_llm_forge.stages.experts.call import Call, check, check_gradient
from p2p_llm_forge.stages.experts.fused import Fused
from p2p_llm_forge.stages.experts.manifest import Manifest
from p2p_llm_forge.stages.experts.passes import ExpertPasses
from p2p_llm_forge.stages.experts.records import Record, Records, digest
from p2p_llm_forge.stages.experts.updates import Updates
from p2p_llm_forge.stages.held import Held, Settled
from p2p_llm_forge.stages.tags import Tag, Written


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What comes back of a call that is well-formed."""

    kind: Literal["done", "stale", "missing"]
    """stale: another round or state is held · missing: give the calls to undo again."""
    values_SD: Tensor | None = None
    """done: the outputs, or the gradients of the tokens; fp32 on the CPU."""


class ExpertShard:
    """One group's experts in this process. All methods belong to one thread."""

    def __init__(
        self, *, held: Held, span: tuple[int, int], fused: Sequence[Fused], sequences: int, keep_bytes: int,
        device: torch.device, folder: Path,
    ) -> None:  # fmt: skip
        """Serve these experts.

        Args:
            held: the shard's state.
            span: its experts, half-open.
            sequences: of a microbatch.
            keep_bytes: for records of the round under way.
            folder: where updates go.
        """
        self.held, self.span = held, span
        self.round = self.start = self.microbatches = 0
        self._sequences, self._fused = sequences, tuple(fused)
        self._what = f"experts {span[0]}:{span[1]}"
        self._passes = ExpertPasses(layout=held.layout, span=span, fused=fused, device=device)
        self._passes.take(held.state.weights_P)
        self._largest_rms = held.spec.max_update_rms * math.sqrt(held.layout.parameters)
        self._sum_P = self._passes.zeros()
        self._done: dict[int, dict[int, bytes]] = {}  # of each microbatch the digests of its calls, by layer
        self._records = Records(keep_bytes)
        self._updates = Updates(folder, held.spec.codec)

    # ------------------------------------------------------------------ rounds

    def begin(self, round_number: int, start: int, microbatches: int, *, anew: bool = False) -> None:
        """Serve these microbatches from now on, the first of which begins at slot `start`; once again: go on."""
        if anew or (self.round, self.start, self.microbatches) != (round_number, start, microbatches):
            self.round, self.start, self.microbatches = round_number, start, microbatches
            self._reset()

    def _reset(self) -> None:
        """Nothing is done."""
        self._sum_P.zero_()
        self._done.clear()
        self._records.clear()

    def manifest(self) -> dict[int, frozenset[int]]:
        """What is in the sum: of each microbatch the layers."""
        return {number: frozenset(layers) for number, layers in sorted(self._done.items())}

    # ------------------------------------------------------------------ passes

    def forward(self, tag: Tag, call: Call) -> Reply:
        """The outputs of the call's experts.

        Raises:
            RequestError: no such microbatch or expert. ActivationError: tokens or outputs that cannot be used.
        """
        if self._stale(tag):
            return Reply(kind="stale")
        return Reply(kind="done", values_SD=self._outputs(call, self._where(tag, call)))

    def evaluate(self, call: Call) -> Tensor:
        """The outputs of the call's experts, of no round [S, D]. Raises as `forward`."""
        return self._outputs(call, f"{self._what}, layer {call.layer}")

    def _outputs(self, call: Call, where: str) -> Tensor:
        check(call, self._fused, self.span)
        outputs_SD = self._passes.forward(call)
        if not bool(outputs_SD.isfinite().all()):
            raise ActivationError(f"{where}: the outputs are not finite, the training diverged")
        return outputs_SD

    def backward(self, tag: Tag, call: Call, gradient_SD: Tensor) -> Reply:
        """The gradients of the call's tokens; those of the experts' weights are in the sum then.

        Args:
            call, gradient_SD: tokens, and gradients of the outputs; both are kept, and not to be changed any more.

        Raises:
            RequestError: no such microbatch or expert, or another call was counted in the place of this one.
            ActivationError: tokens or gradients that cannot be used, or that lead to what is out of bounds.
        """
        if self._stale(tag):
            return Reply(kind="stale")
        check(call, self._fused, self.span)
        check_gradient(call, gradient_SD, self._what)
        known, key = digest(call, gradient_SD), (tag.microbatch, call.layer)
        counted = self._done.get(tag.microbatch, {}).get(call.layer)
        if counted is not None and counted != known:
            raise RequestError(f"{self._where(tag, call)}: another backward call is counted; undo it first")
        if counted is not None and (record := self._records.get(key)) is not None:
            return Reply(kind="done", values_SD=record.reply_SD)
        found = self._passes.backward(call, gradient_SD)
        norm, limit = found.norm(), self._largest_rms * tag.tokens
        if not norm <= limit or not bool(found.tokens_SD.isfinite().all()):
            raise ActivationError(
                f"{self._where(tag, call)}: the gradient's norm is {norm:.6g}, wanted at most {limit:.6g} "
                "(training.max_update_rms)"
            )
        if counted is None:
            self._passes.add(self._sum_P, call.layer, found, 1)
            self._done.setdefault(tag.microbatch, {})[call.layer] = known
        self._records.put(key, Record(call=call, gradient_SD=gradient_SD, reply_SD=found.tokens_SD))
        return Reply(kind="done", values_SD=found.tokens_SD)

    def undo(self, tag: Tag, calls: Sequence[tuple[Call, Tensor]] = ()) -> Reply:
        """Take a microbatch out of the sum again, if it is in it.

        Args:
            calls: its backward calls with their gradients, in case they are no longer kept here.

        Raises:
            RequestError: no such microbatch.
        """
        if self._stale(tag):
            return Reply(kind="stale")
        return Reply(kind="done" if self._undo(tag.microbatch, frozenset(), calls) else "missing")

    def keep(self, number: int, layers: frozenset[int]) -> bool:
        """Take all but these layers of a microbatch out of the sum; False, and nothing changed: no record of it."""
        return self._undo(number, layers)

    # ------------------------------------------------------------------ the end of a round

    def freeze(self, manifest: Manifest) -> list[int]:
        """Undo what is done beyond this manifest; returns the microbatches of which something is not done."""
        wanted = {number: asked.layers for number, asked in manifest.items()}
        kept = any(self._done[number].keys() & wanted.get(number, ()) for number in self._done)
        if not kept or not all(self._undo(number, wanted.get(number, frozenset())) for number in list(self._done)):
            self._reset()
        return sorted(number for number, layers in wanted.items() if layers - self._done.get(number, {}).keys())

    def write(self, manifest: Manifest) -> Written:
        """Write the update over exactly this manifest.

        Raises:
            RequestError: another manifest is done. UpdateError: not finite. DiskError.
        """
        wanted = {number: asked.layers for number, asked in manifest.items() if asked.layers}
        if not manifest or wanted != self.manifest():
            raise RequestError(
                f"write: {self._what}: calls of {len(self._done)} microbatches are done, wanted exactly those of "
                f"{len(wanted)}; freeze first"
            )
        path = self._updates.write(self._sum_P)
        slots = [
            self.start + number * self._sequences + row for number in sorted(manifest) for row in range(self._sequences)
        ]
        tokens = sum(asked.tokens for asked in manifest.values())
        return Written(path=path, tokens=tokens, loss=0, leaves=leaves_root([(slot, 0) for slot in slots]))

    def apply(self, state: str, round_number: int, own: Settled, norms: Sequence[str], tokens: int = 0) -> Path:
        """Take the round's step, as `Held.apply`; nothing of the next round is done yet."""
        path = self.held.apply(state, round_number, own, (), norms, tokens)
        self._updates.applied(own)
        self._moved()
        return path

    def load(self, path: Path) -> None:
        """Go on with another state, as `Held.load`."""
        self.held.load(path)
        self._updates.jumped()
        self._moved()

    def _moved(self) -> None:
        self._passes.take(self.held.state.weights_P)
        self.begin(0, 0, 0)

    # ------------------------------------------------------------------ parts of the above

    def _stale(self, tag: Tag) -> bool:
        """Whether it is of another round or state; raises RequestError if there is no such microbatch."""
        if (tag.round, tag.state) != (self.round, self.held.id):
            return True
        if not 0 <= tag.microbatch < self.microbatches:
            raise RequestError(f"microbatch {tag.microbatch}: round {self.round} has {self.microbatches}, from 0")
        if tag.tokens < 1:
            raise RequestError(f"microbatch {tag.microbatch}: {tag.tokens} valid tokens, wanted 1 or more")
        return False

    def _where(self, tag: Tag, call: Call) -> str:
        return f"{self._what}, layer {call.layer}, microbatch {tag.microbatch}"

    def _undo(self, number: int, layers: frozenset[int], calls: Sequence[tuple[Call, Tensor]] = ()) -> bool:
        """Take all but these layers of a microbatch out of the sum; False, and nothing has changed: no record of it."""
        done = self._done.get(number, {})
        known = {digest(call, gradient_SD): (call, gradient_SD) for call, gradient_SD in calls}
        surplus = {}
        for layer in done.keys() - layers:
            if (record := self._records.get((number, layer))) is not None:
                surplus[layer] = record.call, record.gradient_SD
            elif done[layer] in known:
                surplus[layer] = known[done[layer]]
            else:
                return False
        for layer, (call, gradient_SD) in surplus.items():
            self._passes.add(self._sum_P, layer, self._passes.backward(call, gradient_SD), -1)
            self._records.drop((number, layer))
            del done[layer]
        if not done:
            self._done.pop(number, None)
        if not self._done:
            self._sum_P.zero_()  # of the roundings nothing is left behind either
        return True
