"""A replica of an expert shard: answers the calls of the round's microbatches, each counted exactly once.

As `stages.replica` does it for a stage: calls carry a tag, and one of another round or state is answered with `stale`.
A forward call leaves nothing behind. A backward call carries the tokens as well; the gradients of the experts' weights
of the SUM of token losses are added up once for each microbatch and layer. A repeat gets the same reply and adds
nothing, until `undo` takes the microbatch out again: its passes run once more and are subtracted. What cannot be kept
until the round ends is answered with `busy`.

A refusal changes nothing: gradients are looked at before they are added.

Shapes: P parameters of the shard, S token-expert pairs of a call, D hidden size.

IO: reads and writes updates and states in its own folders, each whole or absent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from p2p_llm_forge import codec
from p2p_llm_forge.answer import leaves_root
from p2p_llm_forge.blobs import blob_id, write_atomic
from p2p_llm_forge.carry import file_name
from p2p_llm_forge.errors import ActivationError, RequestError
from p2p_llm_forge.recent import keep_newest
from p2p_llm_forge.stages.experts.call import Call, check, check_gradient
from p2p_llm_forge.stages.experts.fused import Fused
from p2p_llm_forge.stages.experts.manifest import Manifest
from p2p_llm_forge.stages.experts.passes import ExpertPasses
from p2p_llm_forge.stages.held import Held, Settled
from p2p_llm_forge.stages.tags import Tag, Written


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What comes back of a call that is well-formed."""

    kind: Literal["done", "stale", "busy"]
    """stale: another round or state is held · busy: no room now."""
    values_SD: Tensor | None = None
    """done: the outputs, or the gradients of the tokens; fp32 on the CPU."""


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A backward call that is in the sum."""

    call: Call
    gradient_SD: Tensor
    reply_SD: Tensor

    def is_of(self, call: Call, gradient_SD: Tensor) -> bool:
        """Whether this is the same call again."""
        return (
            (self.call.experts, self.call.counts) == (call.experts, call.counts)
            and torch.equal(self.call.tokens_SD, call.tokens_SD)
            and torch.equal(self.gradient_SD, gradient_SD)
        )


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
            keep_bytes: for the tokens, gradients and replies of the round under way.
            folder: where updates go.
        """
        self.held, self.span, self.keep_bytes = held, span, keep_bytes
        self.round = self.start = self.microbatches = 0
        self._sequences, self._fused, self._folder = sequences, tuple(fused), folder
        self._what = f"experts {span[0]}:{span[1]}"
        self._passes = ExpertPasses(layout=held.layout, span=span, fused=fused, device=device)
        self._passes.take(held.state.weights_P)
        self._largest_rms = held.spec.max_update_rms * math.sqrt(held.layout.parameters)
        self._sum_P = self._passes.zeros()
        self._done: dict[int, dict[int, _Done]] = {}

    # ------------------------------------------------------------------ rounds

    def begin(self, round_number: int, start: int, microbatches: int) -> None:
        """Serve these microbatches from now on, the first of which begins at slot `start`; once again: go on."""
        if (self.round, self.start, self.microbatches) != (round_number, start, microbatches):
            self.round, self.start, self.microbatches = round_number, start, microbatches
            self._done.clear()
            self._sum_P.zero_()

    def manifest(self) -> dict[int, frozenset[int]]:
        """What is in the sum: of each microbatch the layers."""
        return {number: frozenset(layers) for number, layers in sorted(self._done.items())}

    @property
    def kept_bytes(self) -> int:
        """What the round's calls take until it ends."""
        return sum(3 * done.reply_SD.nbytes for layers in self._done.values() for done in layers.values())

    # ------------------------------------------------------------------ passes

    def forward(self, tag: Tag, call: Call) -> Reply:
        """The outputs of the call's experts.

        Raises:
            RequestError: no such microbatch or expert. ActivationError: tokens or outputs that cannot be used.
        """
        if self._stale(tag):
            return Reply(kind="stale")
        check(call, self._fused, self.span)
        outputs_SD = self._passes.forward(call)
        if not bool(outputs_SD.isfinite().all()):
            raise ActivationError(f"{self._where(tag, call)}: the outputs are not finite, the training diverged")
        return Reply(kind="done", values_SD=outputs_SD)

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
        if (done := self._done.get(tag.microbatch, {}).get(call.layer)) is not None:
            if not done.is_of(call, gradient_SD):
                raise RequestError(f"{self._where(tag, call)}: another backward call is counted; undo it first")
            return Reply(kind="done", values_SD=done.reply_SD)
        if self.kept_bytes + 3 * call.tokens_SD.nbytes > self.keep_bytes:
            return Reply(kind="busy")
        found = self._passes.backward(call, gradient_SD)
        norm, limit = found.norm(), self._largest_rms * tag.tokens
        if not norm <= limit or not bool(found.tokens_SD.isfinite().all()):
            raise ActivationError(
                f"{self._where(tag, call)}: the gradient's norm is {norm:.6g}, wanted at most {limit:.6g} "
                "(training.max_update_rms)"
            )
        self._passes.add(self._sum_P, call.layer, found, 1)
        done = _Done(call=call, gradient_SD=gradient_SD, reply_SD=found.tokens_SD)
        self._done.setdefault(tag.microbatch, {})[call.layer] = done
        return Reply(kind="done", values_SD=found.tokens_SD)

    def undo(self, tag: Tag) -> Reply:
        """Take a microbatch out of the sum again, if it is in it. Raises RequestError: no such microbatch."""
        if self._stale(tag):
            return Reply(kind="stale")
        self._keep(tag.microbatch, ())
        return Reply(kind="done")

    # ------------------------------------------------------------------ the end of a round

    def freeze(self, manifest: Manifest) -> list[int]:
        """Undo what is done beyond this manifest; returns the microbatches of which something is not done."""
        for number in list(self._done):
            self._keep(number, manifest[number].layers if number in manifest else ())
        return sorted(number for number, asked in manifest.items() if asked.layers - self._done.get(number, {}).keys())

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
        data, _ = codec.encode(self._sum_P.to("cpu", copy=True), self.held.spec.codec)
        path = self._folder / file_name(blob_id(data))
        write_atomic(path, [data])
        keep_newest(self._folder, "*.update", path)
        slots = [
            self.start + number * self._sequences + row for number in sorted(manifest) for row in range(self._sequences)
        ]
        tokens = sum(asked.tokens for asked in manifest.values())
        return Written(path=path, tokens=tokens, loss=0, leaves=leaves_root([(slot, 0) for slot in slots]))

    def apply(self, state: str, round_number: int, own: Settled, norms: Sequence[str]) -> Path:
        """Take the round's step, as `Held.apply`; nothing of the next round is done yet."""
        path = self.held.apply(state, round_number, own, (), norms)
        self._moved()
        return path

    def load(self, path: Path) -> None:
        """Go on with another state, as `Held.load`."""
        self.held.load(path)
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

    def _keep(self, number: int, layers: Collection[int]) -> None:
        """Take all but these layers of a microbatch out of the sum."""
        done = self._done.get(number, {})
        for layer in [layer for layer in done if layer not in layers]:
            found = self._passes.backward(done[layer].call, done[layer].gradient_SD)
            self._passes.add(self._sum_P, layer, found, -1)
            del done[layer]
        if not done:
            self._done.pop(number, None)
        if not self._done:
            self._sum_P.zero_()  # of the roundings nothing is left behind either
