"""The sections of a run spec; every setting with its bounds, its default and what it means.

Pure: definitions and validation. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_INT = (1 << 53) - 1


class Section(BaseModel):
    """What every section shares: frozen, unknown keys refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelSpec(Section):
    """Which model to train: either a `family` with sizes, or the `path` of an existing model."""

    family: str | None = None
    """Any causal language model that `transformers` knows by its model type: gpt2, llama, qwen3, mistral, …"""
    path: str | None = None
    """A local model folder (config.json + *.safetensors), or a hub name whose files are already in the local cache."""
    layers: int | None = Field(default=None, ge=1, le=1024)
    """Number of transformer blocks."""
    hidden_size: int | None = Field(default=None, ge=8, le=65536)
    """Width of the residual stream; a multiple of `heads`."""
    heads: int | None = Field(default=None, ge=1, le=1024)
    """Attention heads."""
    key_value_heads: int | None = Field(default=None, ge=1, le=1024)
    """Key/value heads for grouped-query attention, where the family has them; all heads when left out."""
    feed_forward_size: int | None = Field(default=None, ge=8, le=1 << 20)
    """Inner width of the feed-forward part; four times the hidden size when left out."""
    context: int | None = Field(default=None, ge=8, le=1 << 22)
    """Longest sequence the model can see, in tokens; `data.sequence_length` when left out."""
    vocab_size: int | None = Field(default=None, ge=2, le=1 << 22)
    """Rows of the embedding; the size of the tokenizer when left out, and never smaller than it."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout probability everywhere the family has one; 0 is usual for pre-training."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further settings by their `transformers` names, e.g. `tie_word_embeddings: true` or `rope_theta: 10000.0`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        sizes = {"layers": self.layers, "hidden_size": self.hidden_size, "heads": self.heads}
        if (self.family is None) == (self.path is None):
            raise ValueError("needs either family (with layers, hidden_size, heads) or path, and not both")
        if self.path is not None:
            extra = {"key_value_heads", "feed_forward_size", "context", "vocab_size", "options"} & self._given()
            for name in sorted(extra | {name for name, size in sizes.items() if size is not None}):
                raise ValueError(f"{name} belongs to family; a model from path brings its own")
        elif missing := [name for name, size in sizes.items() if size is None]:
            raise ValueError(f"family {self.family} needs {', '.join(missing)} as well")
        elif (self.hidden_size or 0) % (self.heads or 1):
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}")
        return self

    def _given(self) -> set[str]:
        return {name for name, value in self if value is not None and value != {}}


class TokenizerSpec(Section):
    """How text becomes tokens."""

    kind: Literal["bpe", "bytes", "path"] = "bpe"
    """bpe: byte-level BPE trained on the corpus · bytes: one token per byte · path: an existing tokenizer."""
    vocab_size: int = Field(default=2048, ge=257, le=1 << 20)
    """Largest vocabulary of a trained bpe tokenizer (256 bytes and one end mark are always in it)."""
    path: str | None = None
    """For kind path: a local `transformers` tokenizer folder, or a hub name whose files are in the local cache."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "path") != (self.path is not None):
            raise ValueError("path belongs to kind: path, and kind: path needs it")
        return self


class DataSpec(Section):
    """What the model reads."""

    source: Literal["text"] = "text"
    """text: one plain UTF-8 text file."""
    path: str | None = None
    """The file; a relative path is meant from the folder of the spec file. Never leaves the submitter's machine."""
    tokenizer: TokenizerSpec = TokenizerSpec()
    """How text becomes tokens."""
    sequence_length: int = Field(default=256, ge=8, le=1 << 20)
    """Tokens per training sample (one slot)."""
    held_out: float = Field(default=0.05, ge=0.0, le=0.5)
    """Fraction of the samples that is never trained on and measures the validation loss."""


_BELONGS = {"k": ("topk",), "chunk": ("topk",), "group": ("int8", "int4")}


class CodecSpec(Section):
    """How a member's update is compressed."""

    kind: Literal["topk", "f32", "f16", "int8", "int4"] = "topk"
    """topk: SparseLoCo, about 0.02 bytes per parameter · int4: 0.56 · int8: 1.06 · f16: 2 · f32: exact, 4."""
    k: int = Field(default=64, ge=1, le=4096)
    """topk: values kept per chunk."""
    chunk: int = Field(default=4096, ge=16, le=4096)
    """topk: parameters per chunk."""
    group: int = Field(default=64, ge=16, le=4096)
    """int8 and int4: parameters that share a scale of 4 bytes."""
    decay: float = Field(default_factory=lambda given: 0.95 if given.get("kind") == "topk" else 1.0, ge=0.0, le=1.0)
    """How much of what was not sent yet is kept for the next round. topk 0.95, as what it holds back grows old; the
    others 1.0, as they only owe what the last rounding took."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.k > self.chunk:
            raise ValueError(f"k {self.k} is larger than chunk {self.chunk}")
        for name, kinds in _BELONGS.items():
            value = getattr(self, name)
            if self.kind not in kinds and value != type(self).model_fields[name].default:
                raise ValueError(f"{name} {value} means nothing to {self.kind}; leave it out or set kind: {kinds[0]}")
        return self


class OuterSpec(Section):
    """How the members' mean update moves the shared weights."""

    kind: Literal["sgd", "nesterov", "adamw"] = "sgd"
    """sgd takes the members' mean · nesterov (0.7, 0.9) is for dense codecs and rounds of hundreds of steps, with short
    ones it overshoots (docs/benchmarks.md, convergence) · adamw is that of mode synchronous."""
    learning_rate: float = Field(default=1.0, gt=0.0, le=10.0)
    """1.0 takes the mean of the members' weights. adamw goes by `training.learning_rate` instead."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """nesterov only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind != "nesterov" and self.momentum != 0.9:
            raise ValueError(f"momentum {self.momentum} means nothing to {self.kind}; leave it out")
        if self.kind == "adamw" and self.learning_rate != 1.0:
            raise ValueError("learning_rate means nothing to adamw; leave it out and set training.learning_rate")
        return self

    @property
    def moments(self) -> tuple[str, ...]:
        """What the optimizer remembers of every parameter."""
        if self.kind == "adamw":
            return ("first_moment", "second_moment")
        return ("momentum",) if self.kind == "nesterov" else ()

    @property
    def counters(self) -> tuple[str, ...]:
        """What it counts."""
        return ("steps",) if self.kind == "adamw" else ()


class TrainingSpec(Section):
    """How the members train."""

    mode: Literal["local", "synchronous"] = "local"
    """local: every member takes `inner_steps` AdamW steps on its own, then the members' changes are averaged.
    synchronous: the members share one batch a round and take one AdamW step by its gradient, as one machine would."""
    rounds: int = Field(default=20, ge=1, le=1_000_000)
    """Rounds until the run is finished."""
    inner_steps: int = Field(default=5, ge=1, le=100_000)
    """Most AdamW steps of a member in one round: the fastest takes so many, slower ones fewer in the same time. Fewer
    steps a round learn more of the same samples, and send more bytes (docs/benchmarks.md, convergence).
    In mode synchronous, batches that it adds up for the one step."""
    batch_size: int = Field(default=8, ge=1, le=1 << 20)
    """Sequences per AdamW step; synchronous: a member's part of the shared batch is `inner_steps` times this."""
    micro_batch_size: Annotated[int, Field(ge=1, le=1 << 20)] | Literal["auto"] = "auto"
    """Sequences per forward and backward pass; smaller needs less memory. auto: as many as fit, on each member for
    itself. Either is halved where a training runs out of memory."""
    learning_rate: float = Field(default=1e-3, gt=0.0, le=1.0)
    """Peak AdamW learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averaging factors."""
    weight_decay: float = Field(default=0.1, ge=0.0, le=1.0)
    """AdamW weight decay, on matrices only."""
    warmup_rounds: int = Field(default=1, ge=0)
    """Rounds over which the learning rate rises to its peak; then it follows a cosine to the last round."""
    min_learning_rate_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """The learning rate at the end, relative to the peak."""
    grad_clip: float = Field(default=1.0, ge=0.0)
    """Largest gradient norm of a step, in mode synchronous that of the whole round; 0 does not clip."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on GPUs that have it, fp32 elsewhere."""
    overlap: bool = False
    """Members train their next round while this one is being settled, so that the others' updates reach them one round
    later: no time is lost to a slow network, some loss is. Only in mode local."""
    codec: CodecSpec = Field(
        default_factory=lambda given: CodecSpec(kind="f32" if given.get("mode") == "synchronous" else "topk")
    )
    """How updates are compressed; f32 in mode synchronous when left out."""
    outer: OuterSpec = Field(
        default_factory=lambda given: OuterSpec(kind="adamw" if given.get("mode") == "synchronous" else "sgd")
    )
    """How updates are applied; by adamw in mode synchronous."""
    clip_updates: bool = Field(default_factory=lambda given: given.get("mode") != "synchronous")
    """Scale each update down to the median norm of the round's updates, so that no member can dominate.
    Not in mode synchronous: the sum would no longer be the gradient of the shared batch; `grad_clip` clips that."""
    max_update_rms: float = Field(default=1.0, gt=0.0, le=1e6)
    """An update whose root mean square over all parameters is above this is refused; in mode synchronous, whose
    updates are sums over tokens, above this times the tokens of a member's full part."""
    time_budget_s: float = Field(default=60.0, gt=0.0, le=86400.0)
    """Longest time a member trains in one round."""
    max_uncertified_rounds: int = Field(default=2, ge=0, le=16)
    """So many rounds may be opened beyond what a quorum of witnesses has certified; then the run waits for one.
    What was trained in them is lost if other entries are certified instead. 0: a round starts once it is certified."""
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_INT)
    """The run ends with the round in which so many tokens are reached, if `rounds` is not reached before."""
    target_loss: float | None = Field(default=None, ge=1e-6, le=100.0)
    """A held-out loss (nats a token) at or below this ends the run; needs `evaluation.every` and `data.held_out`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)} must lie in [0, 1)")
        if self.micro_batch_size != "auto" and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} is larger than batch_size {self.batch_size}")
        if self.warmup_rounds > self.rounds:
            raise ValueError(f"warmup_rounds {self.warmup_rounds} is more than rounds {self.rounds}")
        if self.mode == "synchronous":
            self._check_synchronous()
        elif self.outer.kind == "adamw":
            raise ValueError("outer.kind adamw takes gradients; set mode: synchronous, or outer.kind: nesterov or sgd")
        return self

    def _check_synchronous(self) -> None:
        """Refuse what would make it differ from one machine with the whole batch."""
        if self.overlap:
            raise ValueError("mode synchronous has no round's delay; leave overlap out or set mode: local")
        if self.outer.kind != "adamw":
            raise ValueError(f"mode synchronous steps by adamw; leave {self.outer.kind} out or set mode: local")
        if self.codec.kind == "topk":
            raise ValueError("mode synchronous needs every gradient; set codec.kind: f32, f16, int8 or int4, not topk")
        if self.clip_updates:
            raise ValueError("mode synchronous adds gradients up as they are; leave clip_updates out and set grad_clip")


ENTRY_BYTES = 16 << 10
"""The ledger takes no longer entry."""
OPEN_BYTES, SEAT_BYTES = 143, 103
"""The longest `open` entry without seats, and one more seat in it: an account and two numbers of 16 digits."""
MOST_MEMBERS = (ENTRY_BYTES - OPEN_BYTES) // SEAT_BYTES


class MembersSpec(Section):
    """How many peers train together."""

    min: int = Field(default=1, ge=1)
    """The run waits until this many peers are ready."""
    max: int = Field(default=64, ge=1)
    """At most this many are rostered; no more than MOST_MEMBERS, since a round's roster is one entry of the log."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max > MOST_MEMBERS:
            raise ValueError(
                f"max {self.max}: a round's roster is one entry of the run's log, and its {ENTRY_BYTES >> 10} KiB "
                f"surely hold {MOST_MEMBERS} seats; set {MOST_MEMBERS} or less"
            )
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class EvaluationSpec(Section):
    """When the held-out samples are looked at."""

    every: int = Field(default=1, ge=0)
    """Rounds between evaluations, by the members in turn; 0 never."""
    sequences: int = Field(default=64, ge=1)
    """At most this many held-out sequences."""
    patience: int | None = Field(default=None, ge=1, le=1_000_000)
    """So many evaluations in a row without a better held-out loss end the run; never if unset."""


class CheckpointsSpec(Section):
    """Which states the members keep; with the updates of all rounds they lead to every other. A volunteer's disk quota
    (`blob_quota_gb`) limits both: the oldest rounds go first."""

    keep_last: int = Field(default=3, ge=1, le=1000)
    """The newest states that every member keeps; the last three of them whatever else needs room."""
    every: int = Field(default=100, ge=0, le=1_000_000)
    """Rounds between states that are kept for good; 0 keeps only the initial one. Fewer states mean longer replays."""


class CreditsSpec(Section):
    """What the run pays."""

    price: int | None = Field(default=None, ge=0, le=MAX_INT)
    """Micro-credits per million tokens; when left out, one micro-credit per GFLOP (`default_price`)."""
    budget: float | None = Field(default=None, ge=0.0, le=9e9)
    """Credits to fund the run with; what the run can cost at most when left out."""
