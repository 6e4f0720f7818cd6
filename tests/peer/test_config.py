"""Settings: which source wins, and what is refused with which words."""

from pathlib import Path

import pytest

from peer.config import Settings
from peer.errors import ConfigError


def load(home: Path, text: str = "", flags: dict[str, object] | None = None, **environment: str) -> Settings:
    if text:
        (home / "peer.toml").write_text(text)
    return Settings.load(home, flags or {}, environment)


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.home == tmp_path
    assert settings.listen == ("/ip4/127.0.0.1/tcp/0",)


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    text = "threads = 1\nmax_runs = 2\nname = 'file'\n"
    settings = load(tmp_path, text, {"threads": 3}, FORGE_THREADS="2", FORGE_MAX_RUNS="5")
    assert (settings.threads, settings.max_runs, settings.name, settings.device) == (3, 5, "file", "auto")


def test_lists_come_from_a_toml_array_or_from_commas_in_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path, 'bootstrap = ["/a", "/b"]\n').bootstrap == ("/a", "/b")
    assert load(tmp_path, FORGE_BOOTSTRAP="/c, /d").bootstrap == ("/c", "/d")


def test_an_unknown_key_in_the_file_names_the_file_and_the_likely_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"peer\.toml: unknown key 'thread'; did you mean 'threads'\?"):
        load(tmp_path, "thread = 2\n")


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flags: unknown key 'colour'"):
        load(tmp_path, flags={"colour": 1})


def test_a_misspelt_variable_is_refused_and_a_foreign_one_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean FORGE_THREADS"):
        load(tmp_path, FORGE_THREAD="2")
    assert load(tmp_path, FORGE_TORCH="cpu", FORGE_HOME="/x", PATH="/bin").threads == 0


def test_the_home_is_not_set_from_within_the_home(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'home'"):
        load(tmp_path, "home = '/elsewhere'\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threads = 'many'\n", "threads is 'many'"),
        ("threads = -1\n", "threads is -1"),
        ("device = 'tpu'\n", "device is 'tpu'"),
        ("blob_quota_gb = 0\n", "blob_quota_gb is 0"),
        ("threads = = 1\n", "peer.toml: "),
    ],
)
def test_a_bad_value_names_its_place_and_itself(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, text)


def test_a_bad_variable_is_named_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment: FORGE_THREADS is 'x'"):
        load(tmp_path, FORGE_THREADS="x")


def test_the_quota_is_decimal_gigabytes(tmp_path: Path) -> None:
    assert load(tmp_path, "blob_quota_gb = 1.5\n").blob_quota_bytes == 1_500_000_000
