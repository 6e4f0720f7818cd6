"""Every error of the package `peer`; each has a code, says place, got and wanted, and where it can, the way out.

    ForgeError(code, message, fix)
      ConfigError            FP-501  peer.toml, an environment variable or a flag
      HomeError              FP-502  the home folder cannot be used
        HomeLocked           FP-503  another daemon holds it
        KeyDamaged           FP-504  a key file is not what it should be
      NetworkFileInvalid     FP-505  network.json
      RunError               FP-40x  a run's life: unknown, refused, over
        Unfit                FP-438  this version cannot work with its spec or files
      RoundError             FP-41x  a round's message that does not fit (the code names the rule); FP-45x in a run
                                     whose model is cut into stages
      WorkerError
        WorkerDied           FP-520  the training subprocess ended
        WorkerRefused        (the code given by the worker)
      NetworkError           FP-300
        Unreachable          FP-301  nobody answers there
          DeadlineExceeded   FP-302  it did not answer in time
        Refused              (the code given by the other side)
        WrongNetwork         FP-303  the other side belongs to another network
        Oversize             FP-304  a message above the limit
        Busy                 FP-305  over a rate or memory limit
        TransportFailed      FP-306  p2pd does not start or keeps dying
        MessageInvalid       FP-307  bytes or fields that no honest peer sends
        AddressInvalid       FP-308
        MethodUnknown        FP-309
        HandlerFailed        FP-310  a fault inside the handler of the other side
      IdentityInvalid        FP-311  a PeerID, or a binding that does not verify
      RecordInvalid          FP-312  a DHT record
      (an event only)        FP-313  a peer's clock is far from ours
      BlobError              FP-320
        BlobUnavailable      FP-321  no provider gave the whole blob
        BlobInvalid          FP-322  bytes that do not belong to the id
        DiskFull             FP-323
        QuotaFull            FP-324  more than the quota allows, even after eviction
        BlobMissing          FP-325  not in this store

Pure: definitions only.
"""

from __future__ import annotations

from typing import ClassVar


class ForgeError(Exception):
    """A failure with a stable code, one line of message and, where there is one, the way out."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" ({self.fix})" if self.fix else "")


class CodedError(ForgeError):
    """A ForgeError whose code belongs to its class."""

    CODE: ClassVar[str] = "FP-500"

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(self.CODE, message, fix)


class ConfigError(CodedError):
    """A setting is unknown, has the wrong type or cannot hold."""

    CODE = "FP-501"


class HomeError(CodedError):
    """The home folder cannot be used."""

    CODE = "FP-502"


class HomeLocked(HomeError):
    """Another process holds the home folder."""

    CODE = "FP-503"


class KeyDamaged(HomeError):
    """A key file is not what it should be."""

    CODE = "FP-504"


class NetworkFileInvalid(CodedError):
    """network.json cannot be used."""

    CODE = "FP-505"


class RunError(ForgeError):
    """A run that is unknown, refused or over; the code names the rule."""


class Unfit(RunError):
    """A run whose spec or files this version of the software cannot work with."""


class RoundError(ForgeError):
    """A round's message does not fit the round; the code names the rule."""

    def __init__(self, code: str, message: str, fix: str = "", *, evidence: tuple[bytes, ...] = ()) -> None:
        super().__init__(code, message, fix)
        self.evidence = evidence
        """Signed receipts that together prove what their signer did; empty where there is nothing to prove."""


class WorkerError(CodedError):
    """Base of what can go wrong with the training subprocess."""

    CODE = "FP-520"


class WorkerDied(WorkerError):
    """The training subprocess ended before it answered."""


class WorkerRefused(WorkerError):
    """The training subprocess answered with an error; `code` is the one it gave."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        ForgeError.__init__(self, code, message, fix)


class NetworkError(CodedError):
    """Base of what can go wrong between two peers."""

    CODE = "FP-300"


class Unreachable(NetworkError):
    """Nobody answers there."""

    CODE = "FP-301"


class DeadlineExceeded(Unreachable):
    """The peer did not answer in time."""

    CODE = "FP-302"


class Refused(NetworkError):
    """The other side answered with an error; `code` is the one it gave."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        ForgeError.__init__(self, code, message, fix)


class WrongNetwork(NetworkError):
    """The other side belongs to another network."""

    CODE = "FP-303"


class Oversize(NetworkError):
    """A message above the limit, refused before it is parsed."""

    CODE = "FP-304"


class Busy(NetworkError):
    """A rate or memory limit of one remote peer is used up; try again later."""

    CODE = "FP-305"


class TransportFailed(NetworkError):
    """p2pd does not start, or keeps dying."""

    CODE = "FP-306"


class MessageInvalid(NetworkError):
    """Bytes or fields that no honest peer sends."""

    CODE = "FP-307"


class AddressInvalid(NetworkError):
    """A multiaddress that cannot be used."""

    CODE = "FP-308"


class MethodUnknown(NetworkError):
    """The peer serves no method of that name."""

    CODE = "FP-309"


class HandlerFailed(NetworkError):
    """A fault inside the handler of the other side; its log has the details."""

    CODE = "FP-310"


class IdentityInvalid(CodedError):
    """A PeerID that is none, or a binding that does not verify."""

    CODE = "FP-311"


class RecordInvalid(CodedError):
    """A DHT record that must not be believed."""

    CODE = "FP-312"


class BlobError(CodedError):
    """Base of what can go wrong with blobs."""

    CODE = "FP-320"


class BlobUnavailable(BlobError):
    """No provider gave the whole blob."""

    CODE = "FP-321"


class BlobInvalid(BlobError):
    """Bytes that do not belong to the id."""

    CODE = "FP-322"


class DiskFull(BlobError):
    """The disk has no room."""

    CODE = "FP-323"


class QuotaFull(BlobError):
    """The quota has no room, even after evicting what no run pins."""

    CODE = "FP-324"


class BlobMissing(BlobError):
    """The blob is not in this store."""

    CODE = "FP-325"
