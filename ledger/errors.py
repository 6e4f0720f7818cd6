"""Every error this package raises, each with its code, in one line: place, got, wanted, way out.

    LedgerError              FP-200  base: `code`, `message`
    ├─ CodecInvalid          FP-201  bytes that are not in canonical form, values that have none
    ├─ KeyInvalid            FP-202  a public key or key file that must not be used
    ├─ SignatureInvalid      FP-203  a signature that does not verify
    ├─ ProofInvalid          FP-204  a Merkle proof that does not prove its claim
    ├─ NoteInvalid           FP-205  a signed note or checkpoint that is malformed or not signed as it must be
    ├─ EntryInvalid          FP-206  an entry that breaks a rule: `index`, `rule`, `got`, `wanted`
    ├─ GenesisInvalid        FP-207  a genesis or network file that is malformed or of another network
    ├─ StoreUnreadable       FP-208  a store that is missing, broken, or not a store
    ├─ StoreBusy             FP-209  a store that another process writes
    ├─ Behind                FP-210  entries are missing in between: `size` is what we have
    ├─ Conflict              FP-211  entries or a head that contradict what is certified or promised
    ├─ QuorumMissing         FP-212  a certificate with too few valid cosignatures
    ├─ Frozen                FP-213  a log whose owner signed two contradicting heads
    ├─ EvidenceInvalid       FP-214  a claimed proof of equivocation that proves nothing
    ├─ SelfFork              FP-215  our own log was signed further elsewhere: a restored backup, or a key used twice
    ├─ ArchiveInvalid        FP-216  a folder of tiles that is missing, malformed, or not what its checkpoints say
    ├─ Unreferenced          FP-217  a log that no certified entry refers to, beyond what one peer may have of those
    ├─ PluginMissing         FP-218  a part of the software that a command needs and that is not installed
    ├─ TermOver              FP-219  a head of a run by a leader other than the one whose term it is
    └─ ExportInvalid         FP-220  an exported model that is not what its card, or the log, says

Pure: no IO.
"""


def one_line(text: str) -> str:
    """The text with what could break a line or steer a terminal spelled out: messages quote what strangers wrote."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class LedgerError(Exception):
    """Base of all; `code` is stable, `message` is one line for a person."""

    code = "FP-200"

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = one_line(message)
        super().__init__(f"{code}: {self.message}")


class _Coded(LedgerError):
    """A subclass carries its code; its constructor takes the message alone."""

    def __init__(self, message: str) -> None:
        super().__init__(type(self).code, message)


class CodecInvalid(_Coded):
    """Bytes that are not the canonical form of a value, or a value that has none."""

    code = "FP-201"


class KeyInvalid(_Coded):
    """A public key of small or mixed order, or a key file that cannot be used."""

    code = "FP-202"


class SignatureInvalid(_Coded):
    """A signature that does not verify."""

    code = "FP-203"


class ProofInvalid(_Coded):
    """A Merkle proof that does not prove its claim."""

    code = "FP-204"


class NoteInvalid(_Coded):
    """A signed note or checkpoint that is malformed, or lacks the signature it must bear."""

    code = "FP-205"


class EntryInvalid(_Coded):
    """An entry that breaks a rule; the log is invalid from it on."""

    code = "FP-206"

    def __init__(self, *, rule: str, got: object, wanted: object, index: int | None = None) -> None:
        self.rule = rule
        self.got = one_line(str(got))
        self.wanted = str(wanted)
        self.index = index
        place = "entry" if index is None else f"entry {index}"
        super().__init__(f"{place}: {rule} is {self.got}, wanted {self.wanted}")

    def at(self, index: int) -> "EntryInvalid":
        """The same error, placed at an index of its log."""
        return EntryInvalid(rule=self.rule, got=self.got, wanted=self.wanted, index=index)


class GenesisInvalid(_Coded):
    """A genesis or network file that is malformed, or that belongs to another network."""

    code = "FP-207"


class StoreUnreadable(_Coded):
    """A store that is missing, broken, or not a store."""

    code = "FP-208"


class StoreBusy(_Coded):
    """A store that another process has open for writing."""

    code = "FP-209"


class Behind(_Coded):
    """The entries given start behind or end before what is needed; send from `size` on."""

    code = "FP-210"

    def __init__(self, size: int, message: str = "") -> None:
        self.size = size
        super().__init__(message or f"entries are missing: the log is known up to {size}; send from there")


class Conflict(_Coded):
    """Entries or a head that contradict what is certified or promised."""

    code = "FP-211"

    def __init__(self, message: str, index: int | None = None) -> None:
        self.index = index
        """The first entry that differs, where that is known."""
        super().__init__(message)


class QuorumMissing(_Coded):
    """A certificate with too few valid cosignatures."""

    code = "FP-212"


class Frozen(_Coded):
    """A log whose owner signed two heads that cannot both be prefixes of it."""

    code = "FP-213"


class EvidenceInvalid(_Coded):
    """A claimed proof of equivocation that proves nothing."""

    code = "FP-214"


class SelfFork(_Coded):
    """Our own log was signed further, or otherwise, elsewhere; nothing is signed until it is recovered."""

    code = "FP-215"

    def __init__(self, size: int, message: str) -> None:
        self.size = size
        """How far others have the log."""
        super().__init__(message)


class ArchiveInvalid(_Coded):
    """A folder of tiles that is missing, malformed, or not what its checkpoints say."""

    code = "FP-216"

    def __init__(self, *, file: str, rule: str, got: object, wanted: object, entry: int | None = None) -> None:
        self.file = file
        """The file or folder, below the archive's."""
        self.entry = entry
        """The entry of its log, where it is about one."""
        self.rule, self.got, self.wanted = rule, str(got), str(wanted)
        place = file if entry is None else f"{file}: entry {entry}"
        super().__init__(f"{place}: {rule} is {self.got}, wanted {self.wanted}")


class Unreferenced(_Coded):
    """A log that no certified entry refers to, beyond what one peer may bring of those."""

    code = "FP-217"


class PluginMissing(_Coded):
    """A part of the software that a command needs is not installed here."""

    code = "FP-218"


class TermOver(_Coded):
    """A head of a run's log by another leader than the one whose term it is."""

    code = "FP-219"


class ExportInvalid(_Coded):
    """A folder that is no exported model, or one that differs from its card or from what the log certifies."""

    code = "FP-220"
