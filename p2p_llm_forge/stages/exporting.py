"""The whole model of a pipeline run as a folder, from the states of its stages; memory for the weights is needed twice.

IO: reads blobs and states, writes one folder, whole or absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2p_llm_forge import model, produce
from p2p_llm_forge.blobs import read_blob
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data import tokenize
from p2p_llm_forge.stages import anatomy, start
from p2p_llm_forge.stages.experts import pieces
from p2p_llm_forge.stages.experts.start import Placed
from p2p_llm_forge.stages.requests import StageExport
from p2p_llm_forge.stages.split import layouts
from p2p_llm_forge.stages.whole import assemble, model_of
from p2p_llm_forge.state import Layout, State


def export(request: StageExport) -> dict[str, Any]:
    """Write it; returns the answer.

    Raises:
        EngineError: the first blob or state that does not fit the others, or a folder that is not empty.
    """
    spec = RunSpec.from_canonical(request.config)
    blob = read_blob(Path(request.model), model.LIMIT_BYTES, "model blob")
    config = model.config_from_blob(blob)
    tokenizer = tokenize.load(read_blob(Path(request.tokenizer), tokenize.LIMIT_BYTES, "tokenizer blob"))
    if spec.experts is None:
        cut = start.cut_of(spec)
        states = _load(request, layouts(config, cut, spec.training.outer, anatomy.of(config, cut.stages())))
        whole = assemble(states)
    else:
        placed = Placed.of(spec, config)
        states = _load(request, [piece.layout for piece in placed.pieces])
        whole = pieces.assemble(states, placed.pieces, placed.whole, weights_only=True)
    built, to = model_of(config, whole), Path(request.to).absolute()
    return {"folder": str(to), "files": produce.export(built, states, blob, tokenizer, to)}


def _load(request: StageExport, found: Sequence[Layout]) -> list[State]:
    return [State.load(Path(path), layout) for path, layout in zip(request.states, found, strict=True)]
