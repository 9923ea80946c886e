"""sdcron.toml: what it may say, and what is said about every mistake in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from sdcron.errors import SdcronError
from sdcron.settings import Settings, read_settings


def refusal(path: Path) -> SdcronError:
    with pytest.raises(SdcronError) as caught:
        read_settings(path)
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.message.startswith(str(path))
    assert caught.value.hint
    return caught.value


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sdcron.toml"
    path.write_text(text)
    return path


def test_without_a_file_or_without_keys_the_defaults_hold(tmp_path: Path) -> None:
    defaults = Settings(timedelta(hours=24), timedelta(days=30), 64 * 1024 * 1024, 1024**3)
    assert read_settings(tmp_path / "none.toml") == Settings() == defaults
    for text in ("", "# nothing\n", "[log]\n"):
        assert read_settings(written(tmp_path, text)) == defaults


def test_every_key_is_read_in_the_grammar_of_job_files(tmp_path: Path) -> None:
    path = written(tmp_path, '[log]\nrotate = "1h30m"\nkeep = "1w"\nmax_size = "512KiB"\ntotal_size = "2G"\n')
    assert read_settings(path) == Settings(timedelta(minutes=90), timedelta(weeks=1), 512 << 10, 2 << 30)
    path = written(tmp_path, '[log]\nrotate = 3600\nkeep = "86400"\nmax_size = 100000\ntotal_size = 200000\n')
    assert read_settings(path) == Settings(timedelta(hours=1), timedelta(days=1), 100000, 200000)


def test_a_small_total_also_bounds_the_size_of_one_log(tmp_path: Path) -> None:
    assert read_settings(written(tmp_path, '[log]\ntotal_size = "10MiB"\n')).max_size == 10 << 20
    error = refusal(written(tmp_path, '[log]\ntotal_size = "10MiB"\nmax_size = "11MiB"\n'))
    assert "'log.max_size' is more than 'log.total_size'" in error.message


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ('rotat = "1h"', "unknown key 'log.rotat'", "did you mean 'log.rotate'"),
        ('max-size = "1M"', "unknown key 'log.max-size'", "did you mean 'log.max_size'"),
        ("colour = 1", "unknown key 'log.colour'", "known are 'log.rotate'"),
        ('"\\u001b[2J" = 1', r"unknown key 'log.\x1b[2J'", "known are"),
        ('rotate = "30s"', "'log.rotate' must be at least 1 minute", "24h"),
        ('keep = "59999ms"', "'log.keep' must be at least 1 minute", "24h"),
        ('rotate = "daily"', "'log.rotate' must be a duration such as", "24h"),
        ('rotate = "1h and more"', "'log.rotate' must be a duration such as", "24h"),
        ("rotate = 1.5", "'log.rotate' must be a duration such as", "24h"),
        ("rotate = true", "'log.rotate' must be a duration such as", "24h"),
        ("rotate = inf", "'log.rotate' must be a duration such as", "24h"),
        ("rotate = 2026-11-21", "'log.rotate' must be a duration such as", "24h"),
        ('keep = "0"', "'log.keep' must be longer than 0", "default"),
        ('keep = "11000d"', "'log.keep' is longer than 10 years", "units"),
        ('max_size = ["1M"]', "'log.max_size' must be a size such as", "64MiB"),
        ('max_size = "64MB"', "'log.max_size' must be a size such as", "64MiB"),
        ("max_size = -1", "'log.max_size' must be a size such as", "64MiB"),
        ("max_size = 1", "'log.max_size' must be at least 64KiB", "64MiB"),
        ('total_size = "99999999T"', "'log.total_size' is larger than any machine", "1024"),
        ("total_size = 1e300", "'log.total_size' is larger than any machine", "1024"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_a_hint(tmp_path: Path, line: str, message: str, hint: str) -> None:
    error = refusal(written(tmp_path, f"[log]\n{line}\n"))
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[logs]\n", "unknown table 'logs'", "did you mean 'log'"),
        ('rotate = "1h"\n', "unknown key 'rotate'", "known are 'log'"),
        ("log = 1\n", "'log' must be a table", "[log]"),
        ("[[log]]\n", "'log' must be a table", "[log]"),
        ("[log\n", "is not TOML: ", "keep"),
        ("[log]\nkeep = 1\nkeep = 2\n", "is not TOML: ", "keep"),
        (f"a = {'[' * 100_000}", "is not TOML: ", "keep"),
        ("a = " + "9" * 10_000, "is not TOML: ", "keep"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str, message: str, hint: str) -> None:
    error = refusal(written(tmp_path, text))
    assert message in error.message
    assert hint in error.hint


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sdcron.toml"
    path.mkdir()
    assert "is not a file" in refusal(path).message
    path.rmdir()
    os.mkfifo(path)
    assert "is not a file" in refusal(path).message
    path.unlink()
    path.write_bytes(b"# \xff\n")
    assert "is not UTF-8 at byte 2" in refusal(path).message
    path.unlink()
    path.symlink_to(path)
    assert "cannot be read" in refusal(path).message
    path.unlink()
    path.mkdir()
    (path / "x").write_text("")
    assert "cannot be read: Not a directory" in refusal(path / "x" / "sdcron.toml").message


def test_without_a_file_nothing_slow_is_loaded() -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom sdcron.settings import read_settings\n"
        "read_settings(Path('/nonexistent/sdcron.toml'))\n"
        "slow = {'yaml', 'jsonschema', 'json', 'tomllib', 'difflib', 'importlib.resources'}\n"
        "sys.exit(f'{slow & set(sys.modules)}')"
    )
    root = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-S", "-c", script]
    ended = subprocess.run(command, env={"PYTHONPATH": root}, capture_output=True, text=True, check=False, timeout=30)
    assert re.fullmatch(r"set\(\)\s*", ended.stderr)
