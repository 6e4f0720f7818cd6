"""Settings of a peer: flag > environment FORGE_* > peer.toml > default; unknown keys are refused with the likely one.

IO: reads peer.toml and the environment, when asked to.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from peer.errors import ConfigError

PREFIX = "FORGE_"
LEAST_MBIT = 0.25
_LISTS = ("listen", "announce", "bootstrap")


class Settings(BaseModel):
    """What a volunteer may set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    """The folder that holds everything of this peer; never read from peer.toml, which lies in it."""
    name: Annotated[str, Field(max_length=64)] = ""
    """What other peers see as this peer's name."""
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Multiaddresses to listen on; the default is reachable from this machine only."""
    announce: tuple[str, ...] = ()
    """Multiaddresses to tell others instead, behind a NAT with a forwarded port."""
    bootstrap: tuple[str, ...] = ()
    """Peers to join through, besides those of network.json."""
    require_bootstrap: bool = False
    """Whether to give up at start if none of them answers; otherwise they are tried again for ever."""
    bootstrap_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """How long the first try at start may take."""
    relay: bool = False
    """Use and offer libp2p circuit relays."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads for training; 0: all cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to train on."""
    keep_residuals: bool = True
    """Whether to keep on disk what only this member knows of a run: its residual and optimizer state of two rounds, 24
    bytes per parameter. A restart then goes on as if nothing had been; without them it starts both anew."""
    max_runs: Annotated[int, Field(ge=0, le=64)] = 1
    """Runs to work on at the same time."""
    witness: Literal["auto", "true", "false"] = "auto"
    """Whether to cosign logs. auto: if the genesis names this peer's witness key; true: it must; false: never."""
    lead: bool = False
    """Whether to lead runs of others while their submitter is away: a witness that is willing is listed as a leader."""
    upload_mbit: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Most that is sent to other peers, in Mbit/s (10^6 bits); 0: no cap, else at least 0.25. A little below what the
    line can do keeps heartbeats fast while blobs move."""
    download_mbit: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Most that is fetched from other peers, in Mbit/s; 0: no cap, else at least 0.25."""
    memory_gb: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Memory that training may take, in GB (10^9 bytes), of the machine and of the GPU alike; 0: what is free."""
    blob_quota_gb: Annotated[float, Field(gt=0, le=1_000_000)] = 20.0
    """Disk that blobs may take, in GB (10^9 bytes)."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged."""

    @field_validator("witness", mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        """TOML has booleans."""
        return str(value).lower() if isinstance(value, bool) else value

    @field_validator("upload_mbit", "download_mbit")
    @classmethod
    def _enough(cls, value: float) -> float:
        """Below it not even the heartbeats and receipts of a round pass."""
        if 0 < value < LEAST_MBIT:
            raise ValueError(f"{value:g} Mbit/s are too few to take part; set 0 for no cap, or at least {LEAST_MBIT}")
        return value

    @property
    def memory_bytes(self) -> int | None:
        """The limit in bytes; None for what is free."""
        return int(self.memory_gb * 1e9) or None

    @property
    def blob_quota_bytes(self) -> int:
        """The quota in bytes."""
        return int(self.blob_quota_gb * 1e9)

    @classmethod
    def load(
        cls, home: Path, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
    ) -> Settings:
        """Reads all three sources; `flags` holds only what was given.

        Raises:
            ConfigError: naming the source, the key, what it is and what is wanted.
        """
        file = home / "peer.toml"
        sources = [
            (str(file), _read_file(file)),
            ("environment", _read_environment(os.environ if environment is None else environment)),
            ("flags", dict(flags or {})),
        ]
        values: dict[str, Any] = {}
        for place, part in sources:
            for key, value in part.items():
                _check(place, key, value)
            values.update(part)
        try:
            return cls(**{**values, "home": home})
        except ValidationError as exc:  # every key passed alone
            raise ConfigError(f"settings: {exc.errors(include_url=False)[0]['msg']}") from exc


def _check(place: str, key: str, value: Any) -> None:
    """One key of one source, so that the message can name both."""
    if key not in Settings.model_fields or (key == "home" and place != "flags"):
        close = difflib.get_close_matches(key, [name for name in Settings.model_fields if name != "home"], 1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{place}: unknown key {key!r}{guess}", f"known keys: {', '.join(_keys())}")
    if key == "home":
        return
    try:
        Settings.model_validate({"home": Path("."), key: value})
    except ValidationError as exc:
        reason = exc.errors(include_url=False)[0]["msg"]
        raise ConfigError(f"{place}: {_spelling(place, key)} is {value!r}: {reason}") from exc


def _keys() -> list[str]:
    return [name for name in Settings.model_fields if name != "home"]


def _spelling(place: str, key: str) -> str:
    return PREFIX + key.upper() if place == "environment" else key


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{file}: {exc}") from exc


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """FORGE_* variables that are settings; one that nearly is, is refused as a typing error."""
    values: dict[str, Any] = {}
    for name, text in environment.items():
        key = name.removeprefix(PREFIX).lower()
        if not name.startswith(PREFIX):
            continue
        if key in _keys():
            values[key] = tuple(part.strip() for part in text.split(",") if part.strip()) if key in _LISTS else text
        elif close := difflib.get_close_matches(key, _keys(), 1, cutoff=0.8):
            raise ConfigError(f"environment: unknown variable {name}; did you mean {PREFIX}{close[0].upper()}?")
    return values
