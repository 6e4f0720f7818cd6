"""What a member carries from one round into the next: the residual, and the inner optimizer's state.

The residual is only ever changed by a training, in one step, and only by what the log says:

 1. train r: the change of this round is added to what was carried; the sum, with the update's id, is the residual of
    round r. The update is cut from it, but **not yet subtracted**. First the update is on disk, then the residual
    (`kept`), then the reply goes out; so whoever heard of an update finds its residual after any death.
 2. The daemon promises the receipt, the leader settles it or not, the round is applied. Nothing here changes.
 3. train r+n: the log has settled the update of round r (it leaves the residual) or has not (all of it stays). The
    rest, decayed once for each round since, is carried into this round: step 1 with r+n.

Killed before the residual of r is on disk: nobody heard of that update; round r is trained again from the residual and
the moments of the round before, or never. Killed anywhere after: step 3 decides by the log, as it would have. A round
that is trained again replaces its own residual, so its change is in it once. What the log settled of us beyond our
newest residual (a power cut, a restored backup, a second home of one account) shows that the residual holds values
that were sent since; it is dropped then: a change may be lost by such an accident, never counted twice.

Work ahead of a settlement (`ahead`) only trains before the fate of the last update is known: the residual is asked for
and left when it is finished, after that. Where it is thrown away its change is in nothing, and AdamW's state goes back
to what was kept, so that a member goes on as one that was killed in mid-training does.

A member that was away keeps both: the residual fades by `codec.decay` each round, as if it had trained without finding
anything, and AdamW's means are replaced within some ten steps, so neither needs a stricter limit than what the daemon
tells of the log: after `MOST_ROUNDS_AWAY` rounds both are dropped. Measured (2 members, 120,640 parameters, 10 steps a
round, 40 rounds): held-out loss 2.431 undisturbed or with everything kept, 2.509 with one member restarted every other
round and nothing kept. One member away for 2 rounds in every 4: 2.467 both kept, 2.479 the residual only, 2.491 the
optimizer only, 2.499 neither (a second seed: 2.501 both, 2.520 neither). For 10 in every 15: 2.468 both, 2.472 neither;
for 17 in every 18 (second seed): 2.496 both, 2.495 neither. So old ones stop helping, and do no harm.

Shapes: P parameters.

IO: reads own updates and, through `kept`, its files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from p2p_llm_forge import codec
from p2p_llm_forge.blobs import blob_id, disk_error, read_blob
from p2p_llm_forge.errors import BlobError, DiskError, UpdateError
from p2p_llm_forge.inner import InnerTrainer
from p2p_llm_forge.kept import Kept, Label, Residual
from p2p_llm_forge.protocol import MOST_ROUNDS_AWAY, Settled
from p2p_llm_forge.settings import CodecSpec


class Carry:
    """One member's; belongs to the engine's thread."""

    def __init__(
        self, *, kept: Kept, updates: Path, spec: CodecSpec, inner: InnerTrainer, now_or_never: bool
    ) -> None:
        """Nothing is read before the first training.

        Args:
            kept: the files.
            updates: folder of our own newest updates.
            spec: the run's codec.
            inner: whose optimizer state is carried.
            now_or_never: what was not settled is not carried: a gradient counts among the tokens of its own round only.
        """
        self._kept, self._updates, self._spec, self._inner = kept, updates, spec, inner
        self._now_or_never = now_or_never
        self._residual: Residual | None = None
        self._applied: bool | None = None  # Whether our update was applied since; None if nobody knows.
        self._told: dict[str, Any] = {}

    # ------------------------------------------------------------------ before and after a training

    def recall(self, round_number: int) -> None:
        """Have what an earlier round left: ours, or the files' after a restart or if this round is trained again."""
        self._kept.wait()
        held = self._residual
        if held is not None and held.label.round < round_number:
            if round_number - held.label.round > MOST_ROUNDS_AWAY:
                self._inner.reset()
                self._kept.notes.append(f"optimizer state of round {held.label.round} dropped: too long ago")
            return
        self._residual, self._applied = self._kept.residual(round_number), None
        found = self._kept.moments(round_number)
        if found is not None and round_number - found[0].round <= MOST_ROUNDS_AWAY:
            self._inner.restore(found[1])
        else:
            found = None
        if self._residual is not None or found is not None:
            left = self._residual.label.round if self._residual is not None else 0
            self._told = {"residual": left, "optimizer": found[0].round if found is not None else 0}

    def rewind(self, round_number: int) -> None:
        """The optimizer moved by work that is thrown away: back to its state of the round before, if that was kept."""
        self._kept.wait()
        found, held = self._kept.moments(round_number), self._residual
        if found is not None and held is not None and found[0] == held.label:
            self._inner.restore(found[1])

    def carried(self, round_number: int, settled: Sequence[Settled] | None) -> Tensor | None:
        """What of the residual goes into this round, as a new vector [P]; `settled` as in `protocol.Train`."""
        held = self._residual
        if held is None:
            return None
        gone, fault = fate(held.label, round_number, settled, applied=self._applied)
        if self._now_or_never and not gone:
            return None
        if not fault:
            carried_P = held.values_P.clone()
            if gone:
                fault = self._subtract(held.label.update, carried_P)
        if fault:
            self._kept.notes.append(f"residual of round {held.label.round} dropped: {fault}")
            self._told["residual"] = 0
            return None
        return carried_P.mul_(self._spec.decay ** (round_number - held.label.round))

    def _subtract(self, name: str, values_P: Tensor) -> str:
        """Take our own update out of these values; returns why that is not possible."""
        path = self._updates / file_name(name)
        try:
            data = read_blob(path, int(name.rpartition("-")[2]), "own update")
            if blob_id(data) != name:
                return "its update on disk is another one"
            codec.decode(data, self._spec, values_P.numel()).subtract_from(values_P)
            path.touch()  # Still needed: the engine keeps the newest files.
        except OSError as exc:
            return disk_error(exc, path).message
        except (BlobError, DiskError, UpdateError) as exc:
            return exc.message
        return ""

    def leave(self, label: Label, values_P: Tensor) -> None:
        """After the update is on disk: `values_P` is the residual from now on, here and on disk."""
        self._residual, self._applied = Residual(label=label, values_P=values_P), False
        self._kept.write(self._residual, self._inner.moments())

    # ------------------------------------------------------------------ in between

    def applied(self, mine: Sequence[str]) -> None:
        """A round was applied, with these updates as ours."""
        if self._residual is not None and self._residual.label.update in mine:
            self._applied = True

    def jumped(self) -> None:
        """Another state was loaded: rounds went by that nobody applied."""
        self._applied = None

    def told(self) -> dict[str, Any]:
        """What people want to know since it was asked last: `restored` and `notes`, where there is any."""
        restored, self._told = self._told, {}
        notes, self._kept.notes = self._kept.notes, []
        return {**({"restored": restored} if restored else {}), **({"notes": notes} if notes else {})}


def fate(
    label: Label, round_number: int, settled: Sequence[Settled] | None, *, applied: bool | None
) -> tuple[bool, str]:
    """(whether the update of this residual was settled, why the residual cannot be carried on or nothing)."""
    if round_number - label.round > MOST_ROUNDS_AWAY:
        return False, f"{round_number - label.round} rounds ago, at most {MOST_ROUNDS_AWAY} are of use"
    if settled is None:
        return bool(applied), "" if applied is not None else "nobody says what was settled since"
    since = [item for item in settled if item.round >= label.round]
    strange = [item.round for item in since if item.update != label.update]
    if strange:
        return False, f"another update of ours was settled in round {strange[0]}"
    return bool(since), ""


def file_name(update: str) -> str:
    """The file of an own update, by its id."""
    return f"{update.partition('-')[0]}.update"
