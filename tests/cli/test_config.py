"""Accounts and settings: `trooper config`, profiles, the key store, and shell completion."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Ran, environment
from tests.cli.terminal import command, screen, terminal
from tests.helpers.conditions import block_until
from trooper_async.cli._app import run
from trooper_async.cli._settings import config_path, load
from trooper_async.errors import ConfigurationError
from trooper_async.testing import FakeTrooper

Typed = Callable[..., Ran]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """`ran("config", "show", typed="…")`: with the settings of environment and file."""

    def ran(*words: str, typed: str = "") -> Ran:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        status = run(words)
        said = capsys.readouterr()
        return Ran(status, said.out, said.err)

    return ran


def write(text: str) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


# Profiles -----------------------------------------------------------------------------------------------------------

TWO = """
api_key = "key-of-default"
[profile.work]
api_key = "key-of-work"
base_url = "https://work.example"
proxy = "http://user:secret@127.0.0.1:1"
[profile.empty]
"""


def test_a_profile_has_its_own_key_url_proxy_and_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile has its own key, base URL, proxy and ledger; --profile and TROOPER_PROFILE choose it."""
    write(TWO)
    default, work = load(), load("work")
    assert (default.api_key, default.base_url, default.profile) == ("key-of-default", None, None)
    assert (work.api_key, work.base_url, work.profile) == ("key-of-work", "https://work.example", "work")
    assert work.options == {"proxy": "http://user:secret@127.0.0.1:1"}
    assert default.ledger != work.ledger
    monkeypatch.setenv("TROOPER_PROFILE", "work")
    assert load().api_key == "key-of-work"


def test_an_explicit_profile_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --profile work nothing is bought on the account of a key that happens to be in the environment."""
    write(TWO)
    monkeypatch.setenv("TROOPER_API_KEY", "key-of-environment")
    monkeypatch.setenv("TROOPER_BASE_URL", "https://environment.example")
    work = load("work")
    assert (work.api_key, work.base_url) == ("key-of-work", "https://work.example")
    assert load().api_key == "key-of-environment"
    with pytest.raises(ConfigurationError, match="has no api_key"):
        load("empty")
    with pytest.raises(ConfigurationError, match=r"there is no profile 'nope' in .* \(there are: empty, work\)"):
        load("nope")


def test_a_profile_may_come_before_or_after_the_command(
    fake: FakeTrooper, ran: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--profile works in either place."""
    write(f'[profile.work]\napi_key = "{fake.api_key}"\nbase_url = "{fake.url}"\n')
    assert ran("ps", "--profile", "work").status == 0
    assert ran("--profile", "work", "ps").status == 0
    assert ran("ps").error == "there is no API key"
    assert ran("ps", "--profile", "nope").status == 2


def test_a_ledger_path_in_the_file_is_relative_to_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same file wherever the command runs; a key other than the file's gets its own ledger."""
    path = write('api_key = "key-of-file"\nledger = "l.jsonl"\n')
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    assert load().ledger == path.parent / "l.jsonl"
    monkeypatch.setenv("TROOPER_API_KEY", "another-key")
    settings = load()
    assert settings.ledger == path.parent / f"l-{settings.account}.jsonl"


# config -------------------------------------------------------------------------------------------------------------


def test_config_writes_a_file_with_mode_600(ran: Typed) -> None:
    """`config set` creates it, `config show` says where each value comes from but never the key, `unset`
    removes one.
    """
    assert ran("config", "set", "api_key", typed="key-1\n").status == 0
    assert ran("config", "set", "base_url", "https://one.example").status == 0
    assert ran("config", "set", "api_key", "--profile", "a b", typed="key-2\n").status == 0
    path = config_path()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert tomllib.loads(path.read_text()) == {
        "api_key": "key-1",
        "base_url": "https://one.example",
        "profile": {"a b": {"api_key": "key-2"}},
    }
    shown = ran("config", "show", "--json")
    assert (shown.json["api_key"], shown.json["base_url"]) == (f"from {path}", "https://one.example")
    assert shown.json["profiles"] == "a b"
    assert "key-" not in shown.out + shown.err + ran("config", "show").out
    assert ran("config", "unset", "base_url").status == 0
    assert ran("config", "path", "--json").json == {"path": str(path)}
    assert load().base_url is None
    assert load("a b").api_key == "key-2"


def test_config_leaves_other_entries_unchanged(ran: Typed) -> None:
    """Comments, other accounts and the order of entries stay."""
    path = write(
        '# mine\napi_key = "old"  # rotated\nproxy = "http://p:1"\n\n[profile.work]  # theirs\napi_key = "w"\n'
    )
    assert ran("config", "set", "api_key", typed="new\n").status == 0
    text = path.read_text()
    assert "# mine" in text
    assert "# theirs" in text
    assert (load().api_key, load("work").api_key) == ("new", "w")
    assert load().options == {"proxy": "http://p:1"}


def test_config_refuses_to_change_a_multiline_value(ran: Typed) -> None:
    """A value over several lines is left to an editor: refused, and the file is unchanged."""
    text = 'base_url = """\nhttps://x\n"""\n'
    path = write(text)
    assert ran("config", "set", "base_url", "https://y").status == 1
    assert path.read_text() == text


@pytest.mark.parametrize(
    "words", [["api_key", "the-key-itself"], ["base_url"], ["nope", "x"], ["proxy", "x", "--keyring"]]
)
def test_config_refuses_a_key_as_an_argument(ran: Typed, words: list[str]) -> None:
    """It would be in the process list; other settings need a value, and must exist."""
    refused = ran("config", "set", *words)
    assert refused.status == 2
    assert "the-key-itself" not in refused.err
    assert not config_path().exists()


@pytest.mark.parametrize("typed", ["", "\n", "two words\n", "umlaut-ü\n"])
def test_config_refuses_an_invalid_key(ran: Typed, typed: str) -> None:
    """Nothing is written, and the input is not repeated."""
    refused = ran("config", "set", "api_key", typed=typed)
    assert (refused.status, typed.strip() in refused.err) == (1, typed.strip() == "")
    assert not config_path().exists()


def test_the_key_is_typed_hidden(fake: FakeTrooper, tmp_path: Path) -> None:
    """On a terminal the key is read without an echo."""
    variables = environment(fake, tmp_path)
    del variables["TROOPER_API_KEY"]
    with terminal("config", "set", "api_key", environment=variables) as shown:
        shown.until("API key:")
        shown.type(fake.api_key)
        assert shown.end()[0] == 0
    assert fake.api_key not in screen(shown.said)
    with terminal("ps", environment=variables) as shown:
        assert shown.end()[0] == 0


def test_the_key_may_be_in_the_systems_key_store(ran: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """--keyring stores it there, by profile, and the file only says so; without keyring it says what to install."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert "pip install keyring" in ran("config", "set", "api_key", "--keyring", typed="k\n").error
    stored: dict[tuple[str, str], str] = {}
    fake_keyring = types.SimpleNamespace(
        get_password=lambda service, user: stored.get((service, user)),
        set_password=lambda service, user, key: stored.__setitem__((service, user), key),
    )
    monkeypatch.setitem(sys.modules, "keyring", fake_keyring)
    assert ran("config", "set", "api_key", "--keyring", "--profile", "work", typed="key-3\n").status == 0
    assert stored == {("trooper", "work"): "key-3"}
    assert "key-3" not in config_path().read_text()
    assert (load("work").api_key, load("work").key_source) == ("key-3", "the system's key store")


def test_a_ca_file_is_used(fake: FakeTrooper, home: Path) -> None:
    """`ca_file` is what TLS verifies with: if it is missing, no certificate is trusted."""
    write('ca_file = "mine.pem"\n')
    code = (
        "from trooper_async.cli._settings import load; load(); import ssl; print(ssl.get_default_verify_paths().cafile)"
    )
    (home / ".config/trooper/mine.pem").write_text("")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(home / ".config/trooper/mine.pem")


# Completion ---------------------------------------------------------------------------------------------------------


def completed(fake: FakeTrooper, home: Path, line: str) -> list[str]:
    """What bash would offer."""
    more = {"_TROOPER_COMPLETE": "zsh_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    variables = {**environment(fake, home), **more}
    said = command(environment=variables)
    assert said.stderr == ""
    return said.stdout.splitlines()[1::3]


def test_ids_and_titles_are_completed(fake: FakeTrooper, home: Path) -> None:
    """From the last list, by id or part of the title; the key is not written to disk."""
    assert command("ps", environment=environment(fake, home)).returncode == 0
    (known,) = (home / ".cache/trooper").iterdir()
    assert known.stat().st_mode & 0o777 == 0o600
    assert fake.api_key not in known.name + known.read_text()
    fake.requests.clear()
    assert completed(fake, home, "trooper stop 12")[:3] == ["123", "124", "125"]
    assert completed(fake, home, "trooper stop LLAMA") == ["123", "124", "125"]
    assert completed(fake, home, "trooper show 129") == ["129"]
    assert "restart" in completed(fake, home, "trooper r")
    assert "--columns" in completed(fake, home, "trooper ps --c")
    assert fake.requests == []


def test_ids_are_read_in_the_background_the_first_time(fake: FakeTrooper, home: Path) -> None:
    """The first time the list is read in the background, and soon available."""
    block_until(lambda: "123" in completed(fake, home, "trooper stop 12"))


def test_outdated_ids_are_completed_and_read_again(fake: FakeTrooper, home: Path) -> None:
    """The shell does not wait: an old list is offered at once, and a new one the next time."""
    assert command("ps", environment=environment(fake, home)).returncode == 0
    (known,) = (home / ".cache/trooper").iterdir()
    known.write_text(json.dumps({"555": "from before"}))
    os.utime(known, (1, 1))
    assert completed(fake, home, "trooper stop ") == ["555"]
    block_until(lambda: "123" in json.loads(known.read_text()))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_line_for_the_shell(ran: Typed, shell: str) -> None:
    """`trooper completion SHELL` prints what belongs into its start file."""
    assert f"_TROOPER_COMPLETE={shell}_source trooper" in ran("completion", shell).out


def test_starting_imports_only_what_it_needs() -> None:
    """--help, --version and the completion of commands import neither aiohttp nor asyncio nor rich."""
    code = """
import sys, os
from trooper_async.cli import _app
status = _app.run({words!r})
print(sorted(name for name in sys.modules if name in ("aiohttp", "asyncio", "rich.live", "rich.console", "cattrs")))
"""
    for words in (["--version"], ["--help"]):
        said = subprocess.run(
            [sys.executable, "-c", code.format(words=words)], capture_output=True, text=True, check=True
        )
        assert said.stdout.splitlines()[-1] == "[]"
    code = """
import atexit, sys
atexit.register(lambda: print(sorted(set(sys.modules) & {'aiohttp', 'rich.live'})))
from trooper_async.cli import _app
_app.run([])
"""
    variables = {"_TROOPER_COMPLETE": "bash_complete", "COMP_WORDS": "trooper stop --", "COMP_CWORD": "2"}
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    assert "plain,--force" in said.stdout
    assert said.stdout.splitlines()[-1] == "[]"
