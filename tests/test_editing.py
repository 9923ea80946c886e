"""Job files written by `new`, changed by `edit`, and removed with their jobs; the editors are made of /bin/sh."""

from __future__ import annotations

import os
import pty
import select
import signal
import stat
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sdcron import editing
from sdcron.applied import applied_jobs
from sdcron.cli import run
from sdcron.jobfile import Context, parse_text
from sdcron.paths import system_paths
from sdcron.place import make_place
from sdcron.template import job_template

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdcron.errors import SdcronError

    Sdcron = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sdcron(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sdcron:
    """A command below a root; exit code, stdout, stderr."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        code = run([*map(str, arguments), *([] if arguments[0] == "new" else ["--root", str(tmp_path / "root")])])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(autouse=True)
def own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of an edit is kept here."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def job(tmp_path: Path, sdcron: Sdcron) -> Path:
    """The file of an applied job, `backup`."""
    directory = tmp_path / "jobs"
    directory.mkdir(mode=0o755)
    path = directory / "backup.yaml"
    path.write_text("# nightly\nschedule: '@daily'\ncommand: /bin/true\n")
    path.chmod(0o640)
    assert sdcron("apply", directory)[0] == 0
    return path


def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have $EDITOR do this with its file, $1."""
    (tmp_path / "editor").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "editor").chmod(0o755)
    monkeypatch.setenv("EDITOR", f"'{tmp_path}/editor'")
    monkeypatch.delenv("VISUAL", raising=False)


def command_of(tmp_path: Path) -> str:
    """What the applied job runs."""
    text = applied_jobs(system_paths(tmp_path / "root"))["backup"].units["sdcron-backup.service"]
    return text.partition("\nExecStart=")[2].partition("\n")[0].rpartition("-- ")[2]


# new


def test_a_new_file_says_what_its_options_say_and_is_valid(tmp_path: Path, sdcron: Sdcron) -> None:
    options = {
        "schedule": "every 15m",
        "command": "/bin/echo 'a  b' # c",
        "description": 'Größe: "x" \\',
        "retry": "5m",
    }
    arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
    code, out, words = sdcron("new", "hello", "-d", tmp_path, *arguments, "--run-as", "nobody")
    assert (code, out, words) == (0, f"{tmp_path}/hello.yaml\n", f"next: sdcron apply {tmp_path}/hello.yaml\n")
    [made], problems = parse_text((tmp_path / "hello.yaml").read_text("utf-8"), "hello.yaml", Context())
    assert problems == ()
    assert made.schedule is not None
    assert (made.schedule.texts, made.command) == (("every 15m",), ("/bin/echo", "a  b", "#", "c"))
    assert (made.description, made.user, made.retry is not None) == (options["description"], "nobody", True)


def test_where_the_new_file_is_can_be_typed_as_it_is_told(tmp_path: Path, sdcron: Sdcron) -> None:
    (tmp_path / "my jobs").mkdir()
    _, _, words = sdcron("new", "hello", "-d", tmp_path / "my jobs")
    typed = f"'{tmp_path}/my jobs/hello.yaml'"
    assert words == f"edit it, then: sdcron validate {typed}, sdcron apply {typed}\n"


@given(st.text())
def test_any_text_is_one_value_of_the_new_file(text: str) -> None:
    written = job_template("x", {"description": text})
    assert yaml.safe_load(written) == {**yaml.safe_load(job_template("x")), "description": text}
    problems = parse_text(written, "x.yaml", Context())[1]
    assert all(problem.key == "description" for problem in problems), problems


def test_what_cannot_be_a_value_is_told_and_no_file_is_made(tmp_path: Path, sdcron: Sdcron) -> None:
    code, _, words = sdcron("new", "bad", "-d", tmp_path, "--schedule", "61 * * * *", "--retry", "soon")
    assert code == 3
    assert "minute 61 is not between 0 and 59" in words
    assert "bad.yaml" in words
    assert not (tmp_path / "bad.yaml").exists()


def test_each_value_can_be_asked_about_alone() -> None:
    assert editing.problems_of_value("x", "schedule", "every 15m") == ()
    [wrong] = editing.problems_of_value("x", "schedule", "61 * * * *")
    assert wrong == "minute 61 is not between 0 and 59: write a number from 0 to 59"


# edit


def test_an_edited_file_is_checked_shown_saved_and_applied(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, 'sed -i s,/bin/true,/bin/false, "$1"')
    code, out, _ = sdcron("edit", "backup")
    assert code == 0
    assert "-command: /bin/true\n+command: /bin/false\n" in out
    assert out.endswith("~ change backup\n1 changed, 0 unchanged\n")
    assert job.read_text().startswith("# nightly\n")
    assert stat.S_IMODE(job.stat().st_mode) == 0o640
    assert command_of(tmp_path) == "/bin/false"


def test_what_is_not_changed_is_not_applied(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, ":")
    before = job.stat()
    assert sdcron("edit", "backup") == (0, "", f"{job} is as it was\n")
    after = job.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("echo 'shedule: x' >>\"$1\"", 3, "did you mean"),
        ("echo 'ping: https://example.org/x' >>\"$1\"", 3, "not supported yet"),
        (
            "printf 'jobs:\n  a:\n    command: x\n    after: b\n  b:\n    command: x\n    needs: a\n' >\"$1\"",
            3,
            "backup.yaml:4:5: jobs wait for each other: a -> b -> a",
        ),
        (
            "printf 'jobs:\n  a:\n    command: x\n    overlap: allow\n  b:\n    command: x\n    after: a\n' >\"$1\"",
            3,
            "backup.yaml:7:5: 'a' has 'overlap: allow'",
        ),
        ("echo 'timeout: 1s' >>\"$1\"; exit 3", 1, "ended with exit status 3"),
        ('rm "$1"', 1, "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(
    script: str, code: int, words: str, tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, script)
    before = job.read_text()
    got, _, told = sdcron("edit", "backup")
    assert (got, words in told) == (code, True), told
    assert str(job) in told or code == 1
    assert (job.read_text(), command_of(tmp_path)) == (before, "/bin/true")


def test_what_is_found_after_the_parsing_is_told_with_its_line(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, "printf '# more\\n\\nping: https://example.org/x\\n' >>\"$1\"")
    _, _, told = sdcron("edit", "backup")
    line = len(job.read_text().splitlines()) + 3
    assert f"{job}:{line}:1: key 'ping' is not supported yet" in told


def test_who_may_not_change_it_is_told_before_the_editor_opens(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, f"touch {tmp_path}/opened")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *more: str(path) != str(job.parent) and access(path, *more))
    code, _, told = sdcron("edit", "backup")
    assert (code, told.splitlines()[0]) == (1, f"sdcron: {job}: Permission denied")
    assert not (tmp_path / "opened").exists()


def test_with_the_last_job_goes_what_was_noted_of_job_files(tmp_path: Path, job: Path, sdcron: Sdcron) -> None:
    (tmp_path / "root/etc").mkdir(exist_ok=True)
    (tmp_path / "root/etc/hostname").write_text("here\n")
    (job.parent / "there.yaml").write_text("command: x\nhosts: elsewhere-*\n")
    assert sdcron("apply", job.parent)[0] == 0
    state = tmp_path / "root/var/lib/sdcron"
    assert {"applied.json", "elsewhere.json"} <= {path.name for path in state.iterdir()}
    assert sdcron("remove", "--yes", "backup")[0] == 0
    assert not {"applied.json", "elsewhere.json"} & {path.name for path in state.iterdir()}


def test_a_file_that_somebody_else_has_changed_meanwhile_is_left_alone(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, f"echo 'timeout: 1s' >>\"$1\"; echo '# other' >>'{job}'")
    code, _, words = sdcron("edit", "backup")
    assert (code, "was changed by somebody else meanwhile" in words) == (1, True)
    assert job.read_text().endswith("# other\n")
    assert command_of(tmp_path) == "/bin/true"


def test_the_file_behind_a_link_is_changed_and_the_link_stays(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real.yaml"
    job.rename(real)
    job.symlink_to(real)
    editor(tmp_path, monkeypatch, "echo 'timeout: 1s' >>\"$1\"")
    assert sdcron("edit", "backup")[0] == 0
    assert job.is_symlink()
    assert real.read_text().endswith("timeout: 1s\n")


def test_a_job_whose_file_is_gone_or_that_there_is_not_cannot_be_edited(job: Path, sdcron: Sdcron) -> None:
    code, _, words = sdcron("edit", "bakup")
    assert (code, "did you mean backup?" in words) == (2, True)
    job.unlink()
    code, _, words = sdcron("edit", "backup")
    assert (code, "is not there any more" in words) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"), [("'", "$EDITOR cannot be read"), ("/no/such/editor -x", "/no/such/editor: No such file")]
)
def test_an_editor_that_cannot_be_run_is_told(
    words: str, told: str, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITOR", words)
    monkeypatch.delenv("VISUAL", raising=False)
    code, _, err = sdcron("edit", job.stem)
    assert (code, told in err) == (2, True)


def test_what_is_wrong_can_be_edited_again(tmp_path: Path, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(tmp_path, monkeypatch, 'grep -q shedule "$1" && sed -i s/shedule.*// "$1" || echo \'shedule: x\' >>"$1"')
    place = make_place(user=False, root=tmp_path / "root", backend="auto")
    asked: list[SdcronError] = []

    def again(error: SdcronError) -> bool:
        asked.append(error)
        return True

    draft = editing.edited(place, job, again, lambda text: None)
    draft.forget()
    assert (len(asked), draft.after) == (1, f"{draft.before}\n")


def test_ends_of_lines_stay_as_they_are(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.write_bytes(job.read_bytes().replace(b"\n", b"\r\n"))
    editor(tmp_path, monkeypatch, "printf 'timeout: 1h\\r\\n' >>\"$1\"")
    assert sdcron("edit", "backup")[0] == 0
    assert job.read_bytes() == b"# nightly\r\nschedule: '@daily'\r\ncommand: /bin/true\r\ntimeout: 1h\r\n"


def test_what_is_not_saved_is_kept_and_what_is_saved_leaves_nothing_behind(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = job.read_bytes()
    for script, code, words in (
        ("printf '# caf\\351\\n' >>\"$1\"", 1, "is not UTF-8"),
        ("echo 'shedule: x' >>\"$1\"", 3, "did you mean"),
    ):
        editor(tmp_path, monkeypatch, script)
        got, _, told = sdcron("edit", "backup")
        kept = tmp_path / told.partition("what you wrote is kept in ")[2].partition("\n")[0]
        assert (got, words in told, kept.read_bytes() != before) == (code, True, True), told
        assert (told.count("did you mean") <= 1, job.read_bytes()) == (True, before)
        kept.unlink()
        kept.parent.rmdir()
    editor(tmp_path, monkeypatch, "echo 'timeout: 1h' >>\"$1\"")
    assert sdcron("edit", "backup")[0] == 0
    assert [*(tmp_path / "temporary").iterdir()] == []


def test_what_could_not_be_applied_is_not_saved_either(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/taken.yaml").write_text("command: x\n")
    assert sdcron("apply", tmp_path / "more")[0] == 0
    before = job.read_text()
    editor(tmp_path, monkeypatch, "echo 'name: taken' >>\"$1\"")
    code, _, words = sdcron("edit", "backup")
    assert (code, "job taken is applied already" in words, job.read_text()) == (3, True, before)


def test_what_applying_would_change_is_shown_before(
    tmp_path: Path, job: Path, sdcron: Sdcron, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, "echo 'name: other' >>\"$1\"")
    code, out, _ = sdcron("edit", "backup")
    plan = ["- remove backup", "+ add other"]
    assert (code, [line for line in out.splitlines() if line in plan]) == (0, plan * 2)


def test_a_file_that_may_not_be_read_is_told_in_one_line(job: Path, sdcron: Sdcron) -> None:
    job.write_bytes(b"# caf\xe9\n")
    assert sdcron("edit", "backup") == (1, "", f"sdcron: {job} is not UTF-8\n  hint: save it as UTF-8\n")


# in a terminal


def in_terminal(*argv: str, answers: str) -> tuple[int, str]:
    """Exit code and screen of a command in a terminal of its own, to which these lines are typed."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "sdcron", *argv])  # noqa: S606 - without a shell
    os.write(descriptor, answers.encode())
    screen = b""
    with suppress(OSError):  # it has ended
        while select.select([descriptor], [], [], 30)[0] and (read := os.read(descriptor, 4096)):
            screen += read
    os.close(descriptor)
    with suppress(ProcessLookupError):
        # If it waits for more it shall not do so for ever.
        os.kill(pid, signal.SIGHUP)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode().replace("\r\n", "\n")


def test_in_a_terminal_it_asks_for_what_no_option_says_until_it_can_be(tmp_path: Path) -> None:
    code, screen = in_terminal("new", "x", "-d", str(tmp_path), answers="61 * * * *\nevery 15m\n/bin/true a b\n")
    assert (code, "minute 61" in screen or "61" in screen) == (0, True), screen
    [job], _ = parse_text((tmp_path / "x.yaml").read_text(), "x.yaml", Context())
    assert (job.schedule.texts if job.schedule else (), job.command) == (("every 15m",), ("/bin/true", "a", "b"))
    assert f"next: sdcron apply {tmp_path}/x.yaml" in screen
    code, screen = in_terminal("new", "y", "-d", str(tmp_path), "-s", "@daily", answers="/bin/false\n")
    assert (code, "When" in screen) == (0, False), screen
    assert job_of_command(tmp_path / "y.yaml") == ("/bin/false",)


@pytest.mark.parametrize("name", ["my job", "collector", "x"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_asked(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("")
    code, screen = in_terminal("new", name, "-d", str(tmp_path), answers="")
    assert (code, screen.count("\n"), "When" in screen) == (2, 2, False), screen


def job_of_command(path: Path) -> tuple[str, ...]:
    [job], _ = parse_text(path.read_text(), path.name, Context())
    return job.command


# remove


def test_a_file_that_cannot_be_removed_is_told_and_the_others_go(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").touch()
    notes: list[str] = []
    assert editing.remove_files([tmp_path / "a", tmp_path / "b"], notes.append) == [tmp_path / "b"]
    assert [note.split(": ")[1] for note in notes] == [f"{tmp_path}/a stays"]


@pytest.mark.parametrize(
    ("options", "answers", "job_stays", "file_stays"),
    [
        ((), "n\n", True, True),
        ((), "y\nn\n", False, True),
        ((), "y\ny\n", False, False),
        (("--files",), "y\n", False, False),
        (("--yes",), "", False, True),
        (("--yes", "--files"), "", False, False),
    ],
)
def test_remove_asks_in_a_terminal_about_the_job_and_about_its_file(
    options: tuple[str, ...], answers: str, job_stays: bool, file_stays: bool, tmp_path: Path
) -> None:
    place = ("--backend", "local", "--root", str(tmp_path / "root"))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/backup.yaml").write_text("command: /bin/true\n")
    (tmp_path / "jobs/both.yaml").write_text("jobs:\n  one: {command: x}\n  two: {command: x}\n")
    assert run(["apply", str(tmp_path / "jobs"), *place]) == 0
    code, screen = in_terminal("remove", "backup", "one", *options, *place, answers=answers)
    assert code == (1 if job_stays else 0), screen
    applied = {path.name for path in (tmp_path / "jobs").iterdir()}
    assert applied == {"both.yaml", *["backup.yaml"] * file_stays}, screen
    left = applied_jobs(make_place(user=False, root=tmp_path / "root", backend="local").paths)
    assert set(left) == ({"backup", "one", "two"} if job_stays else {"two"})


@pytest.mark.parametrize(("answers", "saved"), [("n\n", False), ("y\n", True), ("\n", True)])
def test_edit_asks_in_a_terminal_before_it_saves(
    answers: str, saved: bool, tmp_path: Path, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(tmp_path, monkeypatch, "echo 'timeout: 1h' >>\"$1\"")
    before = job.read_text()
    code, screen = in_terminal("edit", "backup", "--root", str(tmp_path / "root"), answers=answers)
    assert (code, job.read_text() != before) == (0 if saved else 1, saved), screen
    assert "+timeout: 1h" in screen


def test_edit_asks_in_a_terminal_whether_to_edit_what_is_wrong_again(
    tmp_path: Path, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wrong at first, and right when it is edited again.
    script = """[ -e AGAIN ] && sed -i /shedule/d "$1" || echo 'shedule: x' >>"$1"; : >AGAIN"""
    editor(tmp_path, monkeypatch, script.replace("AGAIN", f"{tmp_path}/again"))
    before = job.read_text()
    code, screen = in_terminal("edit", "backup", "--root", str(tmp_path / "root"), answers="n\n")
    assert (code, "did you mean" in screen, job.read_text()) == (3, True, before), screen
    (tmp_path / "again").unlink()
    code, screen = in_terminal("edit", "backup", "--root", str(tmp_path / "root"), answers="y\n")
    assert (code, "did you mean" in screen, job.read_text()) == (0, True, before), screen


def test_a_file_that_holds_other_jobs_too_stays_when_one_is_removed(tmp_path: Path, job: Path, sdcron: Sdcron) -> None:
    (job.parent / "two.yaml").write_text("jobs:\n  one: {command: x}\n  two: {command: x}\n")
    (job.parent / "wrong.yaml").write_text("command: x\n")
    sdcron("apply", job.parent)
    (job.parent / "wrong.yaml").write_text("comand: x\n")
    place = make_place(user=False, root=tmp_path / "root", backend="auto")
    notes: list[str] = []
    assert editing.removable(place, ["backup", "one", "wrong"], notes.append) == [job]
    assert [note.partition(f"{job.parent}/")[2].partition(" stays")[0] for note in notes] == [
        "two.yaml also holds two and",
        "wrong.yaml has mistakes in it and",
    ]
    assert editing.removable(place, ["one", "two"], notes.append) == [job.parent / "two.yaml"]
