"""`forge-ledger check` of an exported model: what it proves, and every way in which a folder may lie.

IO: folders and stores below a test's own.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.cli.main import main
from ledger.errors import ExportInvalid, LedgerError
from ledger.exported.card import CARD, PROOF
from ledger.exported.check import check_folder
from ledger.exported.weights import STATE, check_weights
from ledger.genesis import Genesis

from .cli_kit import call, call_json
from .exported_kit import CHUNK, CONFIG, TOKENIZER, WEIGHTS, Model, besides, make, safetensors, state_of, values
from .world import BOB, GENESIS, key_of

WEIGHTS_FILE = "model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model as it was exported; not to be changed."""
    return make(tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture
def model(sound: Model, tmp_path: Path) -> Model:
    """A copy that may be changed."""
    return replace(sound, folder=shutil.copytree(sound.folder, tmp_path / "model"))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """The network file."""
    path = tmp_path / "network.json"
    path.write_text(json.dumps({"genesis": GENESIS.to_json(), "bootstrap": []}))
    return path


def refused(model: Model) -> str:
    """Why the folder proves nothing."""
    with pytest.raises(LedgerError) as refusal:
        check_folder(model.folder, GENESIS)
    return f"{refusal.value.code} {refusal.value.message}"


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_model_is_proven_to_somebody_who_has_only_the_network_file(sound: Model, network: Path) -> None:
    output = call("check", sound.folder, "--network", network).stdout
    assert output.startswith("PROVEN\n")
    for part in (
        sound.card.run, f"{sound.card.state} after round 2", "by 1 of 1 witnesses, 1 are wanted",
        f"{WEIGHTS_FILE}: 340,003, bit by bit those of this state", "config.json is what the run's spec names",
        "tokenizer.json, tokenizer_config.json: what the run's spec names", f"as {sound.card.account} signed it",
        "not proven:", "README.md", "honest work",
    ):  # fmt: skip
        assert part in output
    body = call_json("check", sound.folder, "--network", network)
    assert (body["ok"], body["card"]["round"], body["parameters"], body["index"]) == (True, 2, 340_003, 4)


def test_a_state_without_outer_tensors_is_proven_too(tmp_path: Path) -> None:
    assert check_folder(make(tmp_path / "model", outer=False).folder, GENESIS).parameters == 340_003


def test_hidden_files_are_not_looked_at(model: Model) -> None:
    before = check_folder(model.folder, GENESIS)
    (model.folder / ".git").mkdir()
    (model.folder / ".git" / "HEAD").write_text("ref")
    (model.folder / ".gitattributes").write_text("*")
    assert check_folder(model.folder, GENESIS) == before


def test_weights_in_several_files_are_read_together(model: Model) -> None:
    (model.folder / WEIGHTS_FILE).unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    first, *others = WEIGHTS.items()
    (model.folder / names[0]).write_bytes(safetensors(dict([first]), {}))
    (model.folder / names[1]).write_bytes(safetensors(dict(others), {}))
    places = {first[0]: names[0], **{name: names[1] for name, _ in others}}
    index = model.folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    model.sign()
    assert check_folder(model.folder, GENESIS).weights == tuple(names)
    index.write_text(json.dumps({"weight_map": {**places, first[0]: "../elsewhere.safetensors"}}))
    model.sign()
    assert "model.safetensors.index.json: names other files, wanted model-0" in refused(model)


FILES = ("README.md", "config.json", WEIGHTS_FILE, PROOF, STATE, "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_of_any_file_is_found_and_the_file_named(model: Model, name: str) -> None:
    flip(model.folder / name, (model.folder / name).stat().st_size // 2)
    assert name in refused(model)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(model: Model, name: str) -> None:
    (model.folder / name).unlink()
    assert name in refused(model)


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_changed_byte_of_the_card_is_found(model: Model, at: int) -> None:
    flip(model.folder / CARD, at)
    assert refused(model).startswith(f"FP-220 {CARD}: ")


@pytest.mark.parametrize(("field", "value"), [
    ("tokens", 5), ("members", [[BOB.public, 7]]), ("loss", 1), ("validation", [1, 2]), ("name", "other"),
    ("account", BOB.public),
])  # fmt: skip
def test_a_card_that_was_changed_after_it_was_signed_is_refused(model: Model, field: str, value: object) -> None:
    card = json.loads((model.folder / CARD).read_bytes())
    assert card[field] != value
    text = json.dumps({**card, field: value}, sort_keys=True, separators=(",", ":"))
    (model.folder / CARD).write_text(text)
    assert re.match(f"FP-220 {CARD}: .*it is not as its account signed it", refused(model))


@pytest.mark.parametrize(("change", "words"), [
    ({"run": "ab" * 32}, f"{CARD}: run is {'ab' * 32}, wanted "),
    ({"round": 1}, f"{CARD}: round is 1, wanted 2, that of {PROOF}"),
    ({"state": "ab" * 32 + "-7"}, f"{CARD}: state is {'ab' * 32}-7, wanted "),
    ({"name": "another"}, f"{CARD}: name is another, wanted tiny"),
    ({"parameters": 3}, f"{CARD}: parameters is 3, wanted 340003"),
    ({"network": "ab" * 32}, f"{CARD}: network is {'ab' * 32}, wanted {GENESIS.id}"),
])  # fmt: skip
def test_a_signed_card_that_contradicts_the_log_is_refused(model: Model, change: dict[str, object], words: str) -> None:
    model.sign(**change)
    assert words in refused(model)


def test_the_same_card_with_other_keys_or_spaces_is_refused(model: Model) -> None:
    card = json.loads((model.folder / CARD).read_bytes())
    for text in (json.dumps(card), json.dumps({**card, "more": 1}), "[]", "{", json.dumps({**card, "format": "x"})):
        (model.folder / CARD).write_text(text)
        assert refused(model).startswith(f"FP-220 {CARD}: ")


# Below, the exporter itself lies: it signs whatever it wrote.

Spoil = Callable[[Model], object]


def changed(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """Another content of a file, made from the one it has."""
    return lambda model: (model.folder / name).write_bytes(change((model.folder / name).read_bytes()))


def written(name: str, value: object) -> Spoil:
    """A file of this JSON or text instead, or besides."""
    text = value if isinstance(value, str) else json.dumps(value)
    return lambda model: (model.folder / name).write_text(text)


def weights(**tensors: tuple[tuple[int, ...], bytes]) -> Spoil:
    """Other weights; a dot in a name is written as two underscores."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return changed(WEIGHTS_FILE, lambda _: safetensors({**WEIGHTS, **named}, {}))


def proof_of(index: int, old: bytes = b"", new: bytes = b"") -> Spoil:
    """The proof of another entry of the log, with something replaced in it."""
    return lambda model: (model.folder / PROOF).write_bytes(model.prove(index).replace(old, new))


def flipped(at: int) -> Callable[[bytes], bytes]:
    """One bit is another."""
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[len(data) + at + 1 :]


A, B = WEIGHTS["a.weight"], WEIGHTS["b.bias"]
SPOILED: dict[str, tuple[Spoil, str]] = {
    "a weight": (
        changed(WEIGHTS_FILE, flipped(-9)),
        r"model.safetensors: the weights and .* give state [0-9a-f]{64}-\d+, wanted ",
    ),
    "the outer state": (changed(STATE, flipped(-40)), "give state"),
    "a later chunk": (changed(STATE, flipped(-1)), "give state"),
    "a tensor more": (weights(d__bias=((1,), bytes(4))), "model.safetensors: d.bias: is no tensor of the state"),
    "a tensor less": (changed(WEIGHTS_FILE, lambda _: safetensors({"a.weight": A}, {})), "b.bias: is missing"),
    "another shape": (weights(a__weight=((400, 500), A[1])), r"a.weight: shape is \[400, 500\], wanted \[500, 400\]"),
    "two of a name": (
        lambda model: (model.folder / "z.safetensors").write_bytes(safetensors({"b.bias": B}, {})),
        "z.safetensors: b.bias: is in model.safetensors too",
    ),
    "another type": (changed(WEIGHTS_FILE, lambda data: data.replace(b"F32", b"I32")), "a tensor of 'I32'"),
    "a gap": (changed(WEIGHTS_FILE, lambda data: data.replace(b"[0,", b"[4,", 1)), "is no safetensors file|begins at"),
    "cut weights": (changed(WEIGHTS_FILE, lambda data: data[:-100]), "model.safetensors: ends 100 bytes before"),
    "no header": (changed(WEIGHTS_FILE, lambda data: data[:5]), "model.safetensors: is no safetensors file"),
    "a huge header": (changed(WEIGHTS_FILE, lambda _: b"\xff" * 99), "is no safetensors file"),
    "a longer rest": (changed(STATE, lambda data: data + b"x"), r"provenance/state: has \d+ bytes, wanted \d+"),
    "the config": (
        written("config.json", {**CONFIG, "n_inner": 3}),
        "config.json: gives model blob .*, wanted .*, that of the run's spec",
    ),
    "code in the config": (written("config.json", {**CONFIG, "auto_map": {}}), "config.json: gives model blob"),
    "no config": (written("config.json", []), "config.json: is no object"),
    "a config that is no number": (written("config.json", '{"x": NaN}'), "config.json: holds what has no canonical"),
    "half a letter": (written("config.json", '{"x": "\\ud800"}'), "config.json: holds what has no canonical form"),
    "bad config": (written("config.json", "{"), "config.json: is not JSON"),
    "the tokenizer": (written("tokenizer.json", {}), "give tokenizer blob .*, wanted "),
    "a file more": (written("adapter_config.json", {}), "adapter_config.json.* give tokenizer blob"),
    "binary tokenizer": (changed("tokenizer.json", lambda _: b"\xff"), "not text"),
    "another entry": (proof_of(3), f"{PROOF}: proves an entry of type open, wanted settle"),
    "an earlier round": (proof_of(2), f"{CARD}: round is 2, wanted 1"),
    "the first entry": (proof_of(0), f"{CARD}: round is 2, wanted 0"),
    "another place": (proof_of(4, b"index 4", b"index 3"), f"FP-204 {PROOF}: "),
}


@pytest.mark.parametrize("name", SPOILED)
def test_an_exporter_that_signs_something_else_is_found_out(model: Model, name: str) -> None:
    spoil, words = SPOILED[name]
    spoil(model)
    model.sign()
    assert re.search(words, refused(model))


def test_no_changed_byte_of_a_header_is_accepted_or_breaks_the_check(model: Model) -> None:
    state, weights = model.folder / STATE, model.folder / WEIGHTS_FILE
    for file, may_mean_the_same in ((state, False), (weights, True)):
        sound = file.read_bytes()
        for at in range(0, 8 + int.from_bytes(sound[:8], "little"), 7):
            file.write_bytes(flipped(at - len(sound))(sound))
            with contextlib.suppress(ExportInvalid):
                check_weights(model.folder, [weights], model.card.state)
                assert may_mean_the_same, f"byte {at} of {file.name} may be another"
        file.write_bytes(sound)
    assert check_weights(model.folder, [weights], model.card.state) == model.card.parameters


def test_a_proof_of_another_run_is_refused(model: Model, tmp_path: Path) -> None:
    other = make(tmp_path / "other", nonce="1" * 32)
    (model.folder / PROOF).write_bytes(other.prove(4))
    model.sign()
    assert refused(model).startswith(f"FP-220 {CARD}: run is {model.card.run}, wanted {other.card.run}")


def test_another_network_proves_nothing(model: Model, tmp_path: Path) -> None:
    other = Genesis.create(name="other", supply={}, witnesses=[("witness", key_of("else").public)])
    (tmp_path / "other.json").write_bytes(other.encode())
    result = call("check", model.folder, "--network", tmp_path / "other.json", code=1)
    assert result.stdout == "PROVES NOTHING\n"
    assert f"network is {GENESIS.id}, wanted {other.id}" in result.stderr
    told = call_json("check", model.folder, "--network", tmp_path / "other.json", code=1)
    assert told["error"]["code"] == "FP-220"


def test_a_folder_that_is_no_exported_model_cannot_be_read(model: Model, network: Path) -> None:
    shutil.rmtree(model.folder / "provenance")
    assert call("check", model.folder, "--network", network, code=2).stderr.startswith("FP-204: ")


def test_the_weights_end_in_a_chunk_with_outer_values_and_more_chunks_follow() -> None:
    state, end = state_of(outer=True)
    header = 8 + int.from_bytes(state[:8], "little")
    assert len(besides(state, end)) == header + (2 * CHUNK - end) + 32 * (-(-len(state) // CHUNK) - 2)
    assert len(state) > 2 * CHUNK > end > CHUNK
    assert len({*TOKENIZER, *CONFIG}) == 6
    assert values("x", (2, 3)) == values("x", (6,))
    assert main.commands["check"].short_help == "Check a proof, or an exported model, offline."
