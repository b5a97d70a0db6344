"""Where the key and the other settings come from, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from trooper_async.cli._app import run
from trooper_async.cli._settings import config_path, load
from trooper_async.errors import ConfigurationError
from trooper_async.testing import FakeTrooper


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(text: str, mode: int = 0o600) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_settings_there_is_no_key(home: Path) -> None:
    """Without environment and file there is no key, and the ledger is in the home's state folder."""
    settings = load()
    assert (settings.api_key, settings.base_url) == (None, None)
    assert settings.ledger == home / f".local/state/trooper/purchases-{settings.account}.jsonl"


def test_the_environment_wins_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of the file counts only if the environment has none."""
    write('api_key = "of-the-file"\nbase_url = "https://file.example"\nledger = "~/mine.jsonl"\n')
    settings = load()
    assert (settings.api_key, settings.base_url) == ("of-the-file", "https://file.example")
    assert settings.ledger == home / "mine.jsonl"
    monkeypatch.setenv("TROOPER_API_KEY", "of-the-environment")
    monkeypatch.setenv("TROOPER_BASE_URL", "https://environment.example")
    assert (load().api_key, load().base_url) == ("of-the-environment", "https://environment.example")
    assert "of-the" not in repr(load())


def test_xdg_folders_are_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both folders follow their variables; a relative one is ignored, as XDG says."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "s"))
    assert config_path() == tmp_path / "c/trooper/config.toml"
    assert load().ledger.parent == tmp_path / "s/trooper"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert load().ledger.parent == tmp_path / ".local/state/trooper"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o610, 0o620])
def test_a_file_with_a_wider_mode_is_refused(mode: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Any mode wider than 600: status 2, how to fix it, and no content of the file."""
    path = write('api_key = "of-the-file"\n', mode)
    assert run(["ps"]) == 2
    said = capsys.readouterr().err
    assert f"chmod 600 {path}" in said
    assert "of-the-file" not in said


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("api_key = of-the-file", "is not TOML"),
        ('api_keys = "of-the-file"', "has an entry 'api_keys'"),
        ("api_key = 1", "not text"),
        ('"of-\\u0000" = 1', "has an entry"),
    ],
)
def test_an_invalid_file_is_refused(text: str, problem: str) -> None:
    """Not TOML, an unknown entry, a value that is not text: an error without any value of it."""
    write(text)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load()
    assert "of-the-file" not in str(caught.value)
    assert caught.value.__context__ is None


def test_an_unreadable_file_is_refused() -> None:
    """A folder in its place is an error, not a missing file."""
    config_path().mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="can't be read"):
        load()


def test_the_file_alone_is_sufficient(fake: FakeTrooper, capsys: pytest.CaptureFixture[str]) -> None:
    """With a key and a base URL in the file, commands work without environment variables."""
    write(f'api_key = "{fake.api_key}"\nbase_url = "{fake.url}"\n')
    assert run(["ps"]) == 0
    assert "training llama 1" in capsys.readouterr().out


def test_help_and_demo_need_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """A broken file does not prevent --help."""
    write("broken", 0o644)
    assert run(["ps", "--help"]) == 0
    assert "your servers" in capsys.readouterr().out
