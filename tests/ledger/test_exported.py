"""`forge-ledger check` of an exported model: what it proves, and every way in which a folder may lie.

IO: folders and stores below a test's own.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.cli.main import main
from ledger.errors import LedgerError
from ledger.exported.card import CARD, PROOF
from ledger.exported.check import check_folder
from ledger.exported.weights import STATE
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
    (model.folder / ".git").mkdir()
    (model.folder / ".git" / "HEAD").write_text("ref")
    (model.folder / ".gitattributes").write_text("*")
    assert check_folder(model.folder, GENESIS).card == model.card.__class__(**{
        **vars(model.card), "files": check_folder(model.folder, GENESIS).card.files,
        "signature": check_folder(model.folder, GENESIS).card.signature,
    })  # fmt: skip


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
def test_a_signed_card_that_contradicts_the_log_is_refused(
    model: Model, change: dict[str, object], words: str
) -> None:
    model.sign(**change)
    assert words in refused(model)


def test_the_same_card_with_other_keys_or_spaces_is_refused(model: Model) -> None:
    card = json.loads((model.folder / CARD).read_bytes())
    for text in (json.dumps(card), json.dumps({**card, "more": 1}), "[]", "{", json.dumps({**card, "format": "x"})):
        (model.folder / CARD).write_text(text)
        assert refused(model).startswith(f"FP-220 {CARD}: ")


# Below, the exporter itself lies: it signs whatever it wrote.

SPOILED: dict[str, tuple[Callable[[Model], object], str]] = {
    "a weight": (lambda model: flip(model.folder / WEIGHTS_FILE, -9), r"model.safetensors: the weights and .* give state [0-9a-f]{64}-\d+, wanted "),
    "the outer state": (lambda model: flip(model.folder / STATE, -40), "give state"),
    "a later chunk": (lambda model: flip(model.folder / STATE, -1), "give state"),
    "a tensor more": (lambda model: weights(model, {**WEIGHTS, "d.bias": ((1,), bytes(4))}), "model.safetensors: d.bias: is no tensor of the state"),
    "a tensor less": (lambda model: weights(model, {"a.weight": WEIGHTS["a.weight"]}), r"b.bias: is missing"),
    "another shape": (lambda model: weights(model, {**WEIGHTS, "a.weight": ((400, 500), WEIGHTS["a.weight"][1])}), r"a.weight: shape is \[400, 500\], wanted \[500, 400\]"),
    "two of a name": (lambda model: (model.folder / "z.safetensors").write_bytes(safetensors({"b.bias": WEIGHTS["b.bias"]}, {})), "b.bias: is in .* too"),
    "cut weights": (lambda model: cut(model.folder / WEIGHTS_FILE, 100), "model.safetensors: ends 100 bytes before"),
    "no header": (lambda model: cut(model.folder / WEIGHTS_FILE, -5), "model.safetensors: is no safetensors file"),
    "a huge header": (lambda model: (model.folder / WEIGHTS_FILE).write_bytes(b"\xff" * 99), "is no safetensors file"),
    "a longer rest": (lambda model: (model.folder / STATE).write_bytes((model.folder / STATE).read_bytes() + b"x"), r"provenance/state: has \d+ bytes, wanted \d+"),
    "the config": (lambda model: (model.folder / "config.json").write_text(json.dumps({**CONFIG, "n_inner": 3})), r"config.json: gives model blob .*, wanted .*, that of the run's spec"),
    "code in the config": (lambda model: (model.folder / "config.json").write_text(json.dumps({**CONFIG, "auto_map": {}})), "config.json: gives model blob"),
    "no config": (lambda model: (model.folder / "config.json").write_text("[]"), "config.json: is no object"),
    "bad config": (lambda model: (model.folder / "config.json").write_text("{"), "config.json: is not JSON"),
    "the tokenizer": (lambda model: (model.folder / "tokenizer.json").write_text("{}"), "give tokenizer blob .*, wanted "),
    "a file more": (lambda model: (model.folder / "adapter_config.json").write_text("{}"), "adapter_config.json.* give tokenizer blob"),
    "binary tokenizer": (lambda model: (model.folder / "tokenizer.json").write_bytes(b"\xff"), "not text"),
    "another entry": (lambda model: (model.folder / PROOF).write_bytes(model.prove(3)), f"{PROOF}: proves a open entry, wanted the settle"),
    "an earlier round": (lambda model: (model.folder / PROOF).write_bytes(model.prove(2)), f"{CARD}: round is 2, wanted 1"),
    "the first entry": (lambda model: (model.folder / PROOF).write_bytes(model.prove(0)), f"{CARD}: round is 2, wanted 0"),
    "another root": (lambda model: (model.folder / PROOF).write_bytes(model.prove(4).replace(b"index 4", b"index 3")), f"FP-204 {PROOF}: "),
}  # fmt: skip


def weights(model: Model, tensors: dict[str, tuple[tuple[int, ...], bytes]]) -> None:
    """Write other weights."""
    (model.folder / WEIGHTS_FILE).write_bytes(safetensors(tensors, {}))


def cut(path: Path, many: int) -> None:
    """Take so many bytes off the end of a file; or leave so many."""
    data = path.read_bytes()
    path.write_bytes(data[:-many])


@pytest.mark.parametrize("name", SPOILED)
def test_an_exporter_that_signs_something_else_is_found_out(model: Model, name: str) -> None:
    spoil, words = SPOILED[name]
    spoil(model)
    model.sign()
    assert re.search(words, refused(model))


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
