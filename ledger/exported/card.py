"""The provenance card of an exported model: what it is and where it comes from, signed by the account that exported it.

`provenance/card.json` is canonical JSON. What the log proves of it, `check` compares with the log; the rest (figures,
README.md) is the word of whoever signed. `README.md` tells people the same.

Pure: no IO.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import cast

from ledger import codec, keys, values
from ledger.codec import Json
from ledger.describe import count
from ledger.errors import ExportInvalid, LedgerError, one_line

FORMAT = "p2p-llm-forge/card/v1"
CONTEXT = b"p2p-llm-forge/card/v1\n"
"""What is signed is this and the canonical card without its signature."""
CARD = "provenance/card.json"
PROOF = "provenance/proof.txt"
MAX_CARD = 1 << 20
"""The longest card that is read, in bytes."""
MICRO = 10**6


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says."""

    network: str
    """The genesis id."""
    network_name: str
    """Its name."""
    run: str
    """The run id: the hash of its spec."""
    name: str
    """The run's name."""
    round: int
    """After which round; 0: before the first."""
    state: str
    """The state's id."""
    parameters: int
    """How many weights."""
    tokens: int
    """Trained in all rounds up to this one, as settled."""
    members: tuple[tuple[str, int], ...]
    """Who contributed so many of them, most first."""
    loss: int
    """Mean training loss of the round, micro-nats a token; 0 where nobody contributed."""
    validation: tuple[int, ...]
    """(round, micro-nats a token) of the newest held-out loss up to this round, or empty."""
    files: Mapping[str, str]
    """SHA-256 of every file of the folder but this one, by its path there."""
    account: str
    """Who exported it, and signs."""
    signature: str = ""
    """By `account`, 128 lowercase hex digits."""

    def __post_init__(self) -> None:
        for name in ("network", "run"):
            values.digest(name, getattr(self, name))
        values.account("account", self.account)
        values.blob_id("state", self.state)
        for name in ("network_name", "name"):
            values.text(name, getattr(self, name), values.MAX_MEMO)
        for name in ("round", "parameters", "tokens", "loss"):
            values.integer(name, getattr(self, name))
        members = [values.array("members", member, (2,)) for member in values.array("members", self.members)]
        for account, tokens in members:
            values.account("members", account)
            values.integer("members", tokens)
        object.__setattr__(self, "members", tuple(members))
        validation = values.array("validation", self.validation, (0, 2))
        for number in validation:
            values.integer("validation", number)
        object.__setattr__(self, "validation", validation)
        if type(self.files) is not dict:
            raise values.fail("files", self.files, "an object")
        for name, digest in self.files.items():
            values.digest(f"files.{name}", digest)
        if self.signature and not values.is_signature(self.signature):
            raise values.fail("signature", self.signature, "128 lowercase hex digits")

    def signed(self, key: keys.PrivateKey) -> "Card":
        """The same card with the signature of its account."""
        return Card(**{**asdict(self), "signature": key.sign(CONTEXT + codec.encode(self._body())).hex()})

    def _body(self) -> dict[str, Json]:
        body = cast("dict[str, Json]", asdict(self))
        del body["signature"]
        return {"format": FORMAT, **body, "members": [list(member) for member in self.members],
                "validation": list(self.validation), "files": dict(self.files)}  # fmt: skip

    def encode(self) -> bytes:
        """The canonical bytes."""
        return codec.encode({**self._body(), "signature": self.signature})


def parse(data: bytes) -> Card:
    """Read a card strictly and verify its signature.

    Raises:
        ExportInvalid: it is none, or was changed after it was signed.
    """
    try:
        body = codec.decode(data, MAX_CARD)
        wanted = {"format", *(field.name for field in fields(Card))}
        if type(body) is not dict or body.keys() != wanted or body["format"] != FORMAT:
            got = sorted(body) if type(body) is dict else type(body).__name__
            raise ExportInvalid(f"{CARD}: holds {str(got)[:200]}, wanted format {FORMAT} with {sorted(wanted)}")
        card = Card(**{name: value for name, value in body.items() if name != "format"})
        if not card.signature:
            raise values.fail("signature", "empty", "128 lowercase hex digits")
        keys.check_public(card.account)
        keys.verify(card.account, CONTEXT + codec.encode(card._body()), bytes.fromhex(card.signature))
    except ExportInvalid:
        raise
    except LedgerError as exc:
        raise ExportInvalid(f"{CARD}: {exc.message}; it is not as its account signed it") from exc
    return card


def readme(card: Card, witnesses: int, quorum: int) -> str:
    """The model card for people: README.md."""
    held_out = card.validation
    rows = [
        ("run", f"{plain(card.name)} (`{card.run}`, the SHA-256 of its spec)"),
        ("round", str(card.round)),
        ("state id", f"`{card.state}`"),
        ("parameters", f"{card.parameters:,}"),
        ("tokens trained", f"{card.tokens:,}"),
        ("training loss of the round", nats(card.loss) if card.loss else "none"),
        ("held-out loss", f"{nats(held_out[1])} after round {held_out[0]}" if held_out else "none"),
        ("network", f"{plain(card.network_name)} (`{card.network}`)"),
        ("certificate", f"`{PROOF}`: {quorum} of {count(witnesses, 'witness', 'witnesses')} must have signed"),
        ("exported by", f"`{card.account}`"),
    ]
    facts = "\n".join(f"| {title} | {text} |" for title, text in rows)
    members = "\n".join(f"| `{account}` | {tokens:,} |" for account, tokens in card.members)
    return (
        f"# {plain(card.name)}, round {card.round}\n\n"
        "A causal language model, trained by peers of a P2P-LLM-Forge network. Load it with\n"
        "`AutoModelForCausalLM.from_pretrained(folder)` and `AutoTokenizer.from_pretrained(folder)`.\n\n"
        f"| | |\n|---|---|\n{facts}\n\n"
        f"| member | tokens |\n|---|---|\n{members}\n\n"
        "That these weights are the state that the network's witnesses certified can be checked offline:\n\n"
        "    forge-ledger check FOLDER --network network.json\n"
    )


def plain(name: str) -> str:
    """A name that somebody chose, as a table's cell can hold it."""
    return one_line(name).replace("|", "/").replace("`", "'")


def nats(loss: int) -> str:
    """Micro-nats a token for people."""
    return f"{loss // MICRO}.{loss % MICRO // 100:04d} nats a token"
