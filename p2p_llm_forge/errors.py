"""Every refusal of the training engine; each is one line that gives the place, what was found, and the way out.

    EngineError             FP-100  anything below
    ├── SpecError           FP-101  a run spec that cannot be used (file, line, field)
    ├── CorpusError         FP-102  missing, empty, binary or too short text
    ├── TokenizerError      FP-103  a tokenizer that cannot be used with this corpus or model
    ├── ModelError          FP-104  an unknown family, a bad option, an unreadable folder
    ├── DoesNotFit          FP-105  the memory estimate exceeds what the machine has free
    ├── StateError          FP-106  state bytes that are not the canonical state of this model
    ├── UpdateError         FP-107  update bytes that are not a well-formed, finite, bounded update
    ├── BlobError           FP-108  a manifest, tokenizer, model or shard blob that is malformed
    ├── RequestError        FP-109  a request to the worker that is malformed or out of order
    ├── DiskError           FP-110  the disk is full, read-only or failing
    ├── DeviceError         FP-111  the accelerator is missing or ran out of memory
    ├── SplitError          FP-112  a model that cannot be cut into these stages
    ├── ActivationError     FP-113  what travels between stages, malformed, misshapen, not finite or out of bounds
    └── HolderError         FP-114  a peer that serves experts answered what it must not, or is gone

Pure: definitions only.
"""

from __future__ import annotations


class EngineError(Exception):
    """The base of all engine errors: a stable code and a one-line message."""

    code = "FP-100"

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    @property
    def message(self) -> str:
        """The one line to show."""
        return str(self.args[0])


class SpecError(EngineError):
    """A run spec that cannot be used."""

    code = "FP-101"


class CorpusError(EngineError):
    """Text that cannot be trained on."""

    code = "FP-102"


class TokenizerError(EngineError):
    """A tokenizer that cannot be used."""

    code = "FP-103"


class ModelError(EngineError):
    """A model that cannot be built."""

    code = "FP-104"


class DoesNotFit(EngineError):
    """A model that needs more memory than there is."""

    code = "FP-105"


class StateError(EngineError):
    """State bytes that are refused."""

    code = "FP-106"


class UpdateError(EngineError):
    """Update bytes that are refused."""

    code = "FP-107"


class BlobError(EngineError):
    """A run's manifest, tokenizer, model or shard blob that is refused."""

    code = "FP-108"


class RequestError(EngineError):
    """A worker request that is refused."""

    code = "FP-109"


class DiskError(EngineError):
    """The disk cannot take or give the bytes."""

    code = "FP-110"


class DeviceError(EngineError):
    """The accelerator cannot do the work."""

    code = "FP-111"


class SplitError(EngineError):
    """A model that cannot be cut into these stages."""

    code = "FP-112"


class ActivationError(EngineError):
    """Activations, gradients or tokens that are refused."""

    code = "FP-113"


class HolderError(EngineError):
    """A peer that serves experts, whose answer is refused or who is gone."""

    code = "FP-114"

    def __init__(self, message: str, *, holder: str | None) -> None:
        super().__init__(message)
        self.holder = holder
        """Who it was; None where nobody is left."""
