"""The worker's door to its stage: nothing of torch is imported before a stage is opened.

IO: as `desk`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p_llm_forge.errors import RequestError
from p2p_llm_forge.stages.experts.requests import TrunkAnswer, TrunkDrive
from p2p_llm_forge.stages.requests import StageCheck, StageExport, StageOpen, StageRequest, Tagged
from p2p_llm_forge.stages.window import Window

if TYPE_CHECKING:
    import torch

    from p2p_llm_forge.stages.desk import Desk
    from p2p_llm_forge.stages.experts.desk import PieceDesk

MOST_WAITING = 16
"""With so many requests waiting, another pass is told to come back."""


class Front:
    """Holds the stage of one worker, if one is open."""

    def __init__(
        self, folder: Path, device: torch.device, tensors: int | None, waiting: Callable[[], int],
        report: Callable[[dict[str, Any]], None],
    ) -> None:  # fmt: skip
        """Hold none.

        Args:
            tensors: descriptor of the memory shared with the daemon.
            waiting: how many requests wait.
            report: sends an event.
        """
        self._report = report
        self._folder, self._device, self._waiting = folder, device, waiting
        self._window = Window(tensors)
        self._desk: Desk | PieceDesk | None = None  # Written only by the main thread.

    def do(self, request: StageRequest) -> dict[str, Any]:
        """Answer a request. Raises EngineError."""
        if isinstance(request, StageExport):
            from p2p_llm_forge.stages.exporting import export

            return export(request)
        if not isinstance(request, StageOpen):
            return self._opened().do(request)
        self._desk = None  # The memory of the stage before is free again for this one.
        self._desk = self._open(request)
        return self._desk.opened()

    def _open(self, request: StageOpen) -> Desk | PieceDesk:
        common = request, self._folder, self._device, self._window, self._waiting
        if "experts" not in request.config:
            from p2p_llm_forge.stages.desk import Desk

            return Desk(*common)
        from p2p_llm_forge.stages.experts.shard_desk import ShardDesk
        from p2p_llm_forge.stages.experts.trunk_desk import TrunkDesk

        return ShardDesk(*common) if request.stage else TrunkDesk(*common, self._report)

    def answered(self, request: TrunkAnswer) -> dict[str, Any]:
        """Hand it to the pass that waits for it, in another thread. Raises EngineError."""
        from p2p_llm_forge.stages.experts.trunk_desk import TrunkDesk

        desk = self._opened()
        if not isinstance(desk, TrunkDesk):
            raise RequestError("trunk_answer: this worker holds no trunk")
        desk.answered(request)
        return {}

    def at_once(self, request: object) -> int:
        """How many such requests may be under way at a time; 0: it has to be alone. For the main thread."""
        if not isinstance(request, TrunkDrive):
            return 0
        from p2p_llm_forge.stages.experts.trunk_desk import TrunkDesk

        return self._desk.at_once if isinstance(self._desk, TrunkDesk) else 0

    def check(self, request: StageCheck) -> dict[str, Any]:
        """Answer it beside the main thread. Raises EngineError."""
        return self._opened().check(request)

    def turned_away(self, request: object) -> dict[str, Any] | None:
        """The answer to a pass for which too many wait already; None if it may wait too. For any thread."""
        waiting, desk = self._waiting(), self._desk
        if desk is None or not isinstance(request, Tagged) or waiting < MOST_WAITING:
            return None
        return desk.busy(waiting)

    def _opened(self) -> Desk | PieceDesk:
        if self._desk is None:
            raise RequestError("no stage is open; send stage_open first")
        return self._desk
