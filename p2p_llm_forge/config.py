"""The run spec: every setting of a training run, documented, validated, and with one canonical form for the log.

Unknown keys are refused. `RunSpec.load` reads a YAML file and names file, line and field of a fault.
The canonical form holds integers, strings, arrays and objects only, so the ledger can carry and hash it.

Pure: except `RunSpec.load`, which reads the file it is given. Imports no torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from p2p_llm_forge import settings_experts, settings_pipeline, specfile
from p2p_llm_forge.errors import SpecError
from p2p_llm_forge.settings import (
    MAX_INT,
    CheckpointsSpec,
    CreditsSpec,
    DataSpec,
    EvaluationSpec,
    MembersSpec,
    ModelSpec,
    Section,
    TrainingSpec,
)
from p2p_llm_forge.settings_experts import ExpertsSpec
from p2p_llm_forge.settings_pipeline import PipelineSpec


class RunSpec(Section):
    """A training run."""

    version: Literal[1] = 1
    """Version of this format."""
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
    """A short name for people: letters, digits, spaces, dots, dashes."""
    seed: int = Field(default=0, ge=0, le=MAX_INT)
    """Fixes the initial weights and the order of the samples."""
    model: ModelSpec
    """Which model to train."""
    data: DataSpec = DataSpec()
    """What it reads."""
    training: TrainingSpec = TrainingSpec()
    """How the members train."""
    members: MembersSpec = MembersSpec()
    """How many peers train together."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """When the validation loss is measured."""
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    """Which states are kept."""
    credits: CreditsSpec = CreditsSpec()
    """What the run pays."""
    pipeline: PipelineSpec | None = None
    """How the model is cut into stages that different peers hold; every member holds all of it when left out."""
    experts: ExpertsSpec | None = None
    """How the experts of a mixture are placed on different peers; not together with `pipeline`."""

    @property
    def max_update_rms(self) -> float:
        """The largest root mean square of an update; one of mode synchronous is a sum over a member's tokens."""
        training = self.training
        if training.mode == "local":
            return training.max_update_rms
        return training.max_update_rms * training.inner_steps * training.batch_size * self.data.sequence_length

    @model_validator(mode="after")
    def _check(self) -> Self:
        asks = {"training.target_loss": self.training.target_loss, "evaluation.patience": self.evaluation.patience}
        for name in [name for name, value in asks.items() if value is not None]:
            if not self.evaluation.every:
                raise ValueError(f"{name} needs held-out losses; set evaluation.every to 1 or more")
            if not self.data.held_out:
                raise ValueError(f"{name} needs held-out samples; set data.held_out above 0")
        if self.pipeline is not None:
            settings_pipeline.check(self.pipeline, self.training, self.members, self.model.layers)
        if self.experts is not None:
            if self.pipeline is not None:
                raise ValueError("pipeline and experts do not go together yet; leave one of them out")
            settings_experts.check(self.experts, self.training, self.members)
        return self

    @classmethod
    def load(cls, path: str | Path) -> RunSpec:
        """Read a YAML file; relative paths in it become absolute.

        Raises:
            SpecError: `file:line: field: what is wrong; the way out`.
        """
        file = specfile.read(Path(path))
        try:
            spec = cls.model_validate_json(json.dumps(file.data), strict=True)
        except ValidationError as exc:
            raise specfile.explain(exc, cls, lambda where: f"{file.path}:{file.line(where)}: ") from exc
        if spec.data.path is None:
            line = file.line(("data",))
            raise SpecError(f"{file.path}:{line}: data.path: missing; add the text file to train on")
        return spec.resolve(file.path.resolve().parent)

    def resolve(self, folder: Path) -> RunSpec:
        """The same spec with relative local paths made absolute from `folder`; hub names stay."""

        def local(path: str | None, *, hub: bool) -> str | None:
            if path is None:
                return None
            full = Path(os.path.normpath(folder / Path(path).expanduser()))
            return path if hub and not full.exists() and not _is_path(path) else str(full)

        tokenizer = self.data.tokenizer
        tokenizer = tokenizer.model_copy(update={"path": local(tokenizer.path, hub=True)})
        data = self.data.model_copy(update={"path": local(self.data.path, hub=False), "tokenizer": tokenizer})
        model = self.model.model_copy(update={"path": local(self.model.path, hub=True)})
        return self.model_copy(update={"data": data, "model": model})

    def canonical(self) -> dict[str, Any]:
        """The form that the log carries: floats as repr strings, booleans as "true" and "false", None left out.

        Local paths do not leave the machine: `data.path` is left out, the others keep their last part.
        """
        value = self.for_worker()
        value["data"].pop("path", None)
        for section in (value["model"], value["data"]["tokenizer"]):
            if "path" in section and _is_path(section["path"]):
                section["path"] = Path(section["path"]).name or "folder"
        return value

    def for_worker(self) -> dict[str, Any]:
        """The canonical form with full paths: the `spec` of the worker's `prepare`."""
        options = json.dumps(self.model.options, sort_keys=True, separators=(",", ":")) if self.model.options else None
        value: dict[str, Any] = _plain(self.model_dump(exclude={"model": {"options"}}))
        return value if options is None else {**value, "model": {**value["model"], "options": options}}

    @classmethod
    def from_worker(cls, value: object) -> RunSpec:
        """Parse `for_worker()`, or a plain dict of settings. Raises SpecError."""
        try:
            if isinstance(value, dict) and isinstance(model := value.get("model"), dict):
                options = model.get("options")
                if isinstance(options, str):
                    value = {**value, "model": {**model, "options": json.loads(options)}}
            return cls.model_validate(value)
        except ValidationError as exc:
            raise specfile.explain(exc, cls, lambda _: "run spec: ") from exc
        except ValueError as exc:
            raise SpecError(f"run spec: model.options: not JSON ({exc})") from exc

    @classmethod
    def from_canonical(cls, value: dict[str, Any]) -> RunSpec:
        """Parse exactly what `canonical` gives; any other spelling of the same settings is refused.

        Raises:
            SpecError: with the field.
        """
        spec = cls.from_worker(value)
        if spec.canonical() != value:
            raise SpecError("run spec: not in canonical form (a default left out, or a number spelled otherwise)")
        return spec


def default_price(parameters: int) -> int:
    """Micro-credits per million tokens at one micro-credit per GFLOP: 6 FLOP x parameters x 10^6 tokens / 10^9."""
    return max(1, 6 * parameters // 1000)


def _is_path(path: str) -> bool:
    return path.startswith((".", "~")) or Path(path).is_absolute()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else value
