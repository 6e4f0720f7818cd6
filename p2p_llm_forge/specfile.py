"""Reads a YAML run spec with line numbers, and turns validation errors into one line with a way out.

`recipes/x.yaml:12: training.inner_stepz: unknown key; did you mean inner_steps?`

IO: reads the one file it is given.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from p2p_llm_forge.errors import SpecError

LIMIT_BYTES = 1 << 20

Location = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class SpecFile:
    """A parsed spec file."""

    path: Path
    """The file as the user named it."""
    data: dict[str, Any]
    """Its content as plain dicts, lists and scalars."""
    line: Callable[[Location], int]
    """The line (from 1) of a field, or of its nearest ancestor that exists."""


def read(path: Path) -> SpecFile:
    """Parse the file.

    Raises:
        SpecError: missing, too large, not YAML, a duplicate key, or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise SpecError(f"{path}: larger than {LIMIT_BYTES} bytes; a run spec is a short YAML file")
        text = path.read_bytes().decode()
    except OSError as exc:
        raise SpecError(
            f"{path}: {exc.strerror or exc}; give the path of a run spec such as recipes/tiny.yaml"
        ) from exc
    except UnicodeDecodeError as exc:
        raise SpecError(f"{path}: not UTF-8 text at byte {exc.start}; a run spec is a YAML file") from exc
    try:
        tree = YAML(typ="rt", pure=True).load(text)
        data = json.loads(json.dumps(tree, default=float))
    except MarkedYAMLError as exc:
        mark = exc.problem_mark
        raise SpecError(f"{path}:{mark.line + 1 if mark else 1}: {exc.problem or 'not YAML'}") from exc
    except (YAMLError, TypeError, ValueError, RecursionError) as exc:
        raise SpecError(f"{path}: not a usable YAML file ({str(exc)[:120]})") from exc
    if not isinstance(data, dict):
        raise SpecError(f"{path}:1: expected `key: value` lines, found {type(data).__name__}")
    return SpecFile(path=path, data=data, line=lambda location: _line(tree, location))


def _line(tree: Any, location: Location) -> int:
    line = 0
    for key in location:
        if not hasattr(tree, "lc"):
            break
        try:
            line = (tree.lc.item(key) if isinstance(key, int) else tree.lc.key(key))[0]
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            break
    return int(line) + 1


def explain(error: ValidationError, model: type[BaseModel], place: Callable[[Location], str]) -> SpecError:
    """The first fault of `error` as one line; `place` renders where it is."""
    faults = error.errors(include_url=False)
    fault = faults[0]
    location = tuple(part for part in fault["loc"] if not _is_union_tag(part))
    where = place(location)
    name = ".".join(str(part) for part in location) or "spec"
    if fault["type"] == "extra_forbidden":
        text = f"unknown key{suggestion(str(location[-1]), _keys(model, location[:-1]))}"
    elif fault["type"] == "missing":
        text = "missing; add it"
    elif fault["type"] == "value_error":
        text = str(fault["ctx"]["error"])
    else:
        text = f"{fault['msg'][:1].lower()}{fault['msg'][1:]}, found {json.dumps(fault['input'], default=str)[:60]}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return SpecError(f"{where}{name}: {text}{more}")


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean x?` for the nearest known word, or the list of known words."""
    import difflib

    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known: {', '.join(options)}" if 0 < len(options) <= 12 else ""


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and ("[" in part or part in {"int", "float", "str", "bool"})


def _keys(model: type[BaseModel], location: Location) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *typing.get_args(field.annotation)) if field else ()
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)
