"""The worker's JSON-lines protocol: strict requests in, replies and events out.

Request  {"id": n, "do": COMMAND, …}          Reply  {"id": n, "ok": {…}} | {"id": n, "error": {"code", "message"}}
Event    {"id": n, "event": NAME, …}          A line that has no usable id is answered with id 0.

Pure: parsing and formatting only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2p_llm_forge.errors import EngineError, RequestError
from p2p_llm_forge.specfile import suggestion

VERSION = 1
LINE_LIMIT_BYTES = 16 << 20
MOST_ROUNDS_AWAY = 64
"""A member that trained no round for longer starts without its old residual and moments."""

Round = Field(ge=1, le=(1 << 53) - 1)


class Request(BaseModel):
    """What every request has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    id: int = Field(ge=0, le=(1 << 53) - 1)
    """Chosen by the caller; replies and events carry it."""


class Prepare(Request):
    """Tokenize and pack the corpus, and make the initial state."""

    do: Literal["prepare"]
    spec: dict[str, Any]
    """`RunSpec.for_worker()`: with an absolute data.path."""
    out: str = Field(min_length=1)
    """Folder for the blobs."""
    memory_bytes: int | None = Field(default=None, ge=0)
    """Memory to stay within; what is free now when left out."""
    peers_bytes: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list, max_length=4096)
    """Memory of the peers that there are, of which each stage of a pipeline run must fit one."""


class Open(Request):
    """Build the model and load a state."""

    do: Literal["open"]
    config: dict[str, Any]
    """`RunSpec.canonical()`."""
    model: str
    """Path of the model blob."""
    tokenizer: str
    """Path of the tokenizer blob."""
    manifest: str
    """Path of the manifest blob."""
    shards: list[str]
    """Paths of the shards in the manifest's order; may be empty for a worker that never trains or evaluates."""
    state: str
    """Path of the state."""
    seed: int | None = Field(default=None, ge=0, le=(1 << 53) - 1)
    """Seed of this member's dropout; the run's seed when left out."""
    memory_bytes: int | None = Field(default=None, ge=0)
    """Memory to stay within; what is free now when left out."""
    keep: bool = True
    """Whether residual and optimizer state are kept on disk for the worker after this one."""


class Settled(BaseModel):
    """One of this member's own updates that the log has settled."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    round: int = Round
    """Which round's."""
    update: str = Field(max_length=100)
    """Blob id."""


class Ahead(BaseModel):
    """Where training ahead of a settlement starts: the state before the round, moved by our own update alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    state: str = Field(max_length=100)
    """Id of the state that the round before started from."""
    path: str
    """Path of it; read only if the worker holds another one."""
    update: str
    """Path of our own update of that round."""


class Train(Request):
    """Train on a slot range."""

    do: Literal["train"]
    round: int = Round
    start: int = Field(ge=0, le=(1 << 53) - 1)
    """First slot."""
    count: int = Field(ge=1, le=1 << 32)
    """How many slots may be used."""
    seconds: float = Field(gt=0.0)
    """Time budget."""
    settled: list[Settled] | None = Field(default=None, max_length=4 * MOST_ROUNDS_AWAY)
    """This member's updates that the log has settled in the last `MOST_ROUNDS_AWAY` rounds; when left out, what was
    applied as `mine` since the last training."""
    ahead: Ahead | None = None
    """Train from there instead of the held state and keep the change; `finish` writes the update."""


class Finish(Request):
    """Write the update of what was trained ahead of this round."""

    do: Literal["finish"]
    round: int = Round
    settled: list[Settled] | None = Field(default=None, max_length=4 * MOST_ROUNDS_AWAY)
    """As for `train`: only now it is known."""


class Stop(Request):
    """End all trainings requested so far after their current step."""

    do: Literal["stop"]


class Check(Request):
    """Decode someone's update strictly, beside the training."""

    do: Literal["check"]
    update: str
    """Path of the update."""


class Contribution(BaseModel):
    """One settled update."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: str
    """Path of the update."""
    tokens: int = Field(ge=1, le=(1 << 53) - 1)
    """Its weight."""
    mine: Literal[0, 1] = 0
    """1 for this member's own."""


class Apply(Request):
    """Move the state by a round's settled updates, in receipt order."""

    do: Literal["apply"]
    round: int = Round
    updates: list[Contribution] = Field(max_length=1024)


class Load(Request):
    """Replace the state. Training without `settled` then drops the residual: nobody knows what was settled since."""

    do: Literal["load"]
    state: str
    """Path of the state."""


class Evaluate(Request):
    """Mean loss over held-out sequences."""

    do: Literal["evaluate"]
    sequences: int = Field(ge=1)
    """At most this many."""


class Export(Request):
    """Write a Hugging Face folder."""

    do: Literal["export"]
    to: str = Field(min_length=1)
    """Folder to make; it may exist only if it is empty."""


class Generate(Request):
    """Continue a prompt."""

    do: Literal["generate"]
    prompt: str = Field(max_length=1 << 20)
    tokens: int = Field(default=64, ge=1, le=1 << 16)
    """Most tokens to add."""
    temperature: float = Field(default=0.8, ge=0.0, le=10.0)
    """0 takes the likeliest token."""
    top_k: int = Field(default=40, ge=0)
    """Draw from this many likeliest tokens; 0 from all."""
    seed: int = Field(default=0, ge=0, le=(1 << 53) - 1)


class Measure(Request):
    """How fast this machine is."""

    do: Literal["measure"]


class Close(Request):
    """Exit 0."""

    do: Literal["close"]


_COMMANDS: dict[str, type[Request]] = {
    kind.__name__.lower(): kind
    for kind in (Prepare, Open, Train, Finish, Stop, Check, Apply, Load, Evaluate, Export, Generate, Measure, Close)
}

_NONE: Mapping[str, type[Request]] = {}


def parse(line: bytes, more: Mapping[str, type[Request]] = _NONE) -> Request:
    """Parse one request line.

    Args:
        more: commands by name, besides those of this file.

    Raises:
        RequestError: one line naming the field.
    """
    try:
        value = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as exc:
        raise RequestError(f"request: not JSON ({str(exc)[:120]})") from exc
    if not isinstance(value, dict):
        raise RequestError(f"request: expected an object, found {type(value).__name__}")
    name = value.get("do")
    commands = {**_COMMANDS, **more}
    kind = commands.get(name) if isinstance(name, str) else None
    if kind is None:
        raise RequestError(f"request: do is {str(name)[:40]!r}{suggestion(str(name)[:40], commands)}")
    try:
        return kind.model_validate(value)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise RequestError(f"request {name}: {place}: {fault['msg'].lower()}") from exc


def request_id(line: bytes) -> int:
    """The id of a line that did not parse, as far as it has one; else 0."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return 0
    found = value.get("id") if isinstance(value, dict) else None
    return found if type(found) is int and found >= 0 else 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key appears twice")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def line(value: dict[str, Any]) -> bytes:
    """One output line."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def error(exc: EngineError) -> dict[str, Any]:
    """The error part of a reply."""
    return {"code": exc.code, "message": exc.message}
