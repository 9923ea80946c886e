"""Directories that an engine follows: what changed is applied, one bad file stops no other, and all is told once."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from sdcron import followed as followed_module
from sdcron.apply import apply_lock
from sdcron.elsewhere import read_elsewhere
from sdcron.errors import LockHeldError, SdcronError, UsageError
from sdcron.followed import Followed
from sdcron.jobfile import read_file
from sdcron.local_jobs import read_local
from sdcron.place import make_place

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sdcron.errors import Problem
    from sdcron.job import Job
    from sdcron.jobfile import Context
    from sdcron.local_jobs import LocalJob

JOB = "schedule: {schedule}\ncommand: [{command}]\n"


@dataclass
class Yard:
    """Directories, what follows them, and what it told."""

    root: Path
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place = make_place(user=False, root=self.root / "machine", backend="local")
        self.jobs_dir = self.root / "jobs"
        self.jobs_dir.mkdir()

    def follow(self, *paths: Path, folders: Path | None = None) -> Followed:
        """Begin to follow."""
        found = Followed(self.place, paths or (() if folders else (self.jobs_dir,)), folders, self.told.append)
        found.take_up()
        return found

    def write(self, name: str, text: str | None = None, *, command: str = "true", schedule: str = "0 3 * * *") -> Path:
        """A job file."""
        path = self.jobs_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text is not None else JOB.format(schedule=schedule, command=command))
        return path

    def applied(self) -> dict[str, LocalJob]:
        """By name."""
        return read_local(self.place.paths)

    def commands(self) -> dict[str, object]:
        """What each job runs."""
        return {name: job.plain["command"] for name, job in self.applied().items()}


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(followed_module, "_SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(followed_module, "_SHARE", 0)
    monkeypatch.setattr(followed_module, "_AGAIN_SECONDS", 0.0)
    return Yard(tmp_path)


def took_up(followed: Followed) -> bool:
    """What the engine does now and then."""
    if not followed.changed():
        return False
    followed.take_up()
    return True


def about(texts: Iterable[str], word: str) -> list[str]:
    return [text for text in texts if word in text]


# Files


def test_all_files_of_a_directory_are_applied(yard: Yard) -> None:
    yard.write("a.yaml")
    yard.write("b.yml", command="false")
    yard.write("ignored.txt", "no job file")
    yard.write(".hidden.yaml", "no job file")
    yard.follow()
    assert yard.commands() == {"a": ["true"], "b": ["false"]}
    assert yard.told == []


def test_jobs_for_other_machines_are_left_to_them_and_known_by_name(yard: Yard) -> None:
    host = os.uname().nodename
    yard.write("a.yaml", JOB.format(schedule="0 3 * * *", command="true") + f"name: one\nhosts: {host}\n")
    yard.write("b.yaml", JOB.format(schedule="0 3 * * *", command="false") + "name: one\nhosts: not-this-one\n")
    followed = yard.follow()
    assert (yard.commands(), yard.told) == ({"one": ["true"]}, [])
    assert [job.hosts for job in read_elsewhere(yard.place.paths)] == [("not-this-one",)]
    yard.write("a.yaml", "name: one\ncommand: x\nhosts: neither-this-one\n")
    assert took_up(followed)
    assert (yard.commands(), yard.told) == ({}, [])
    assert [job.hosts for job in read_elsewhere(yard.place.paths)] == [("neither-this-one",), ("not-this-one",)]


def test_nothing_that_did_not_change_is_taken_up(yard: Yard) -> None:
    yard.write("a.yaml")
    followed = yard.follow()
    assert not followed.changed()
    before = yard.applied()
    followed.take_up()
    assert yard.applied() == before


def test_a_changed_a_new_and_a_removed_file_are_taken_up(yard: Yard) -> None:
    path = yard.write("a.yaml")
    yard.write("b.yaml")
    followed = yard.follow()
    yard.write("a.yaml", command="false")
    assert took_up(followed)
    assert yard.commands() == {"a": ["false"], "b": ["true"]}
    yard.write("c.yaml")
    assert took_up(followed)
    assert sorted(yard.applied()) == ["a", "b", "c"]
    path.unlink()
    assert took_up(followed)
    assert sorted(yard.applied()) == ["b", "c"]
    assert not took_up(followed)


def test_an_emptied_directory_has_no_jobs(yard: Yard) -> None:
    path = yard.write("a.yaml")
    followed = yard.follow()
    path.unlink()
    assert took_up(followed)
    assert yard.applied() == {}


def test_a_file_that_is_replaced_by_rename_is_taken_up(yard: Yard) -> None:
    path = yard.write("a.yaml")
    followed = yard.follow()
    new = yard.write("a.yaml.new", command="false")
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.replace(path)
    assert took_up(followed)
    assert yard.commands() == {"a": ["false"]}


def test_two_directories_and_a_file_are_followed_together(yard: Yard) -> None:
    yard.write("a.yaml")
    yard.write("../more/b.yaml")
    single = yard.write("../single/c.yaml")
    yard.write("../single/not-asked-for.yaml")
    followed = yard.follow(yard.jobs_dir, yard.root / "more", single)
    assert sorted(yard.applied()) == ["a", "b", "c"]
    (yard.root / "more/b.yaml").unlink()
    yard.write("../single/c.yaml", command="false")
    assert took_up(followed)
    assert yard.commands() == {"a": ["true"], "c": ["false"]}


def test_a_job_that_moves_from_one_directory_to_the_other_stays_one_job(yard: Yard) -> None:
    path = yard.write("a.yaml")
    (yard.root / "more").mkdir()
    followed = yard.follow(yard.jobs_dir, yard.root / "more")
    since_us = yard.applied()["a"].since_us
    path.rename(yard.root / "more/a.yaml")
    assert took_up(followed)
    assert yard.applied()["a"].source == f"{yard.root}/more/a.yaml"
    assert yard.applied()["a"].since_us == since_us


def test_jobs_that_were_applied_from_elsewhere_stay(yard: Yard) -> None:
    yard.write("../elsewhere/x.yaml")
    yard.follow(yard.root / "elsewhere")
    yard.write("a.yaml")
    followed = yard.follow()
    yard.write("b.yaml")
    assert took_up(followed)
    assert sorted(yard.applied()) == ["a", "b", "x"]
    assert yard.told == []


def test_times_of_a_job_that_did_not_change_count_on_over_a_restart(yard: Yard) -> None:
    yard.write("a.yaml")
    yard.follow()
    since_us = yard.applied()["a"].since_us
    yard.follow()
    assert yard.applied()["a"].since_us == since_us


def test_a_path_that_is_not_there_is_refused_at_the_start(yard: Yard) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        yard.follow(yard.root / "none")


def test_nothing_to_follow_is_nothing(yard: Yard) -> None:
    assert not Followed(yard.place, (), None, yard.told.append)
    assert yard.follow()


def test_only_files_that_changed_are_read_unless_all_are_asked_for(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        yard.write(f"{name}.yaml")
    yard.write("bad.yaml", "{")
    followed = yard.follow()
    read: list[str] = []
    real = read_file

    def reading(path: Path, context: Context) -> tuple[tuple[Job, ...], tuple[Problem, ...]]:
        read.append(path.name)
        return real(path, context)

    monkeypatch.setattr(followed_module, "read_file", reading)
    yard.write("b.yaml", command="false")
    yard.write("d.yaml")
    assert took_up(followed)
    assert read == ["b.yaml", "bad.yaml", "d.yaml"]
    assert sorted(yard.commands().items()) == [("a", ["true"]), ("b", ["false"]), ("c", ["true"]), ("d", ["true"])]
    read.clear()
    followed.take_up()
    assert read == ["a.yaml", "b.yaml", "bad.yaml", "c.yaml", "d.yaml"]
    assert len(yard.told) == 1


def test_a_name_that_another_file_takes_later_counts_as_if_all_were_read(yard: Yard) -> None:
    yard.write("b.yaml", "name: same\ncommand: [b]\n")
    followed = yard.follow()
    path = yard.write("a.yaml", "name: same\ncommand: [a]\n")
    assert took_up(followed)
    assert yard.commands() == {"same": ["a"]}
    assert len(about(yard.told, "is taken already")) == 1
    yard.write("c.yaml")
    assert took_up(followed)
    path.unlink()
    assert took_up(followed)
    assert yard.commands() == {"same": ["b"], "c": ["true"]}
    assert len(about(yard.told, "is taken already")) == 1


# What is wrong


def test_a_bad_file_stops_no_other_and_keeps_its_last_good_jobs(yard: Yard) -> None:
    yard.write("a.yaml")
    yard.write("b.yaml")
    followed = yard.follow()
    yard.write("a.yaml", "command: [true\n")
    yard.write("b.yaml", command="false")
    yard.write("c.yaml")
    assert took_up(followed)
    assert yard.commands() == {"a": ["true"], "b": ["false"], "c": ["true"]}
    assert about(yard.told, "a.yaml:2:1: ")


@pytest.mark.parametrize(
    "text",
    ["", "\0", "{", "7", "nonsense: 1\ncommand: ['true']", "schedule: never\ncommand: ['true']", "x: " + "[" * 5000],
)
def test_a_file_that_was_never_good_stops_no_other(yard: Yard, text: str) -> None:
    yard.write("a.yaml", text)
    yard.write("b.yaml")
    yard.follow()
    assert sorted(yard.applied()) == ["b"]
    assert about(yard.told, "a.yaml")


def test_of_a_file_with_a_bad_job_the_others_are_applied_and_the_bad_one_stays_as_it_was(yard: Yard) -> None:
    both = "jobs:\n  a:\n    command: [{0}]\n  b:\n    command: [{1}]\n"
    yard.write("two.yaml", both.format("one", "one"))
    followed = yard.follow()
    yard.write("two.yaml", both.format("two", "1, 2, {x: 1}"))
    assert took_up(followed)
    assert yard.commands() == {"a": ["two"], "b": ["one"]}
    yard.write("two.yaml", both.format("three", "three"))
    assert took_up(followed)
    assert yard.commands() == {"a": ["three"], "b": ["three"]}


def test_a_bad_file_that_is_removed_takes_its_jobs_with_it(yard: Yard) -> None:
    path = yard.write("a.yaml")
    followed = yard.follow()
    yard.write("a.yaml", "{")
    assert took_up(followed)
    path.unlink()
    assert took_up(followed)
    assert yard.applied() == {}


def test_what_is_wrong_is_told_once_until_it_is_mended_and_wrong_again(yard: Yard) -> None:
    yard.write("a.yaml", "{")
    followed = yard.follow()
    assert len(yard.told) == 1
    for number in range(5):
        yard.write("b.yaml", command=f"n{number}")
        assert took_up(followed)
    assert len(yard.told) == 1
    yard.write("a.yaml")
    assert took_up(followed)
    yard.write("a.yaml", "{")
    assert took_up(followed)
    assert len(yard.told) == 2


def test_what_the_engine_cannot_do_is_told_and_the_last_that_it_could_goes_on(yard: Yard) -> None:
    yard.write("a.yaml")
    yard.write("b.yaml")
    followed = yard.follow()
    yard.write(
        "a.yaml", JOB.format(schedule="0 4 * * *", command="true") + "systemd:\n  service:\n    PrivateTmp: yes\n"
    )
    yard.write("b.yaml", command="false")
    assert took_up(followed)
    assert yard.applied()["a"].schedule == ("0 3 * * *",)
    assert yard.commands()["b"] == ["false"]
    assert about(yard.told, "a.yaml")


def test_of_two_files_with_one_name_the_first_counts_and_it_is_told(yard: Yard) -> None:
    yard.write("a.yaml", "name: same\ncommand: [first]\n")
    yard.write("b.yaml", "name: same\ncommand: [second]\n")
    yard.follow()
    assert yard.commands() == {"same": ["first"]}
    assert yard.told == [
        f"{yard.jobs_dir}/b.yaml: the job name 'same' is taken already, by {yard.jobs_dir}/a.yaml",
    ]


def test_a_name_that_is_applied_from_elsewhere_is_left_alone_and_the_rest_of_the_file_is_applied(yard: Yard) -> None:
    yard.write("../elsewhere/x.yaml", "name: x\ncommand: [theirs]\n")
    yard.follow(yard.root / "elsewhere")
    yard.write("two.yaml", "jobs:\n  x:\n    command: [ours]\n  y:\n    command: [ours]\n")
    yard.write("z.yaml")
    followed = yard.follow()
    assert yard.commands() == {"x": ["theirs"], "y": ["ours"], "z": ["true"]}
    assert len(about(yard.told, "job x is applied already from")) == 1
    yard.write("two.yaml", "jobs:\n  x:\n    command: [ours]\n  y:\n    command: [new]\n")
    assert took_up(followed)
    assert yard.commands() == {"x": ["theirs"], "y": ["new"], "z": ["true"]}


def test_a_job_that_systemd_runs_does_not_run_twice_and_the_rest_of_its_file_does(yard: Yard) -> None:
    yard.write("two.yaml", "jobs:\n  x:\n    command: ['true']\n  y:\n    command: ['true']\n")
    followed = yard.follow()
    units = yard.place.paths.unit_dir
    units.mkdir(parents=True)
    (units / "sdcron-x.service").write_text("")
    yard.write("z.yaml")
    assert took_up(followed)
    assert sorted(yard.applied()) == ["y", "z"]
    assert len(about(yard.told, "job x is applied already to systemd")) == 1


def test_files_that_others_may_write_to_are_no_jobs_of_roots(yard: Yard) -> None:
    yard.write("a.yaml").chmod(0o666)
    yard.write("b.yaml")
    yard.follow()
    assert sorted(yard.applied()) == (["b"] if os.geteuid() == 0 else ["a", "b"])


def test_a_directory_that_goes_and_comes_back_changes_nothing_and_is_told(yard: Yard) -> None:
    yard.write("a.yaml")
    followed = yard.follow()
    for _ in range(2):
        yard.jobs_dir.rename(yard.root / "away")
        assert not took_up(followed)
        assert not took_up(followed)
        assert sorted(yard.applied()) == ["a"]
        (yard.root / "away").rename(yard.jobs_dir)
        assert not took_up(followed)
    assert len(about(yard.told, "does not exist")) == 2


# What cannot be applied now


def test_an_engine_that_runs_waits_for_no_apply_and_looks_again(yard: Yard) -> None:
    followed = yard.follow()
    yard.write("a.yaml")
    with apply_lock(yard.place.paths, 0):
        began = time.monotonic()
        assert took_up(followed)
        assert time.monotonic() - began < 5
        assert yard.applied() == {}
    assert took_up(followed)
    assert sorted(yard.applied()) == ["a"]
    assert yard.told == []


def test_an_engine_that_begins_waits_for_an_apply(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_module, "_LOCK_SECONDS", 0.2)
    with apply_lock(yard.place.paths, 0), pytest.raises(LockHeldError):
        yard.follow()


def test_a_full_disk_is_told_once_and_tried_again(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard.write("a.yaml")
    followed = yard.follow()
    yard.write("b.yaml")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "jobs")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for _ in range(3):
            assert took_up(followed)
        assert sorted(yard.applied()) == ["a"]
    assert yard.told == ["jobs: No space left on device"]
    assert took_up(followed)
    assert sorted(yard.applied()) == ["a", "b"]
    assert not took_up(followed)


def test_a_set_that_is_damaged_under_the_engine_is_told_once_and_is_an_error_at_the_start(yard: Yard) -> None:
    yard.write("a.yaml")
    followed = yard.follow()
    yard.place.paths.local_jobs_file.write_text("damaged\n")
    yard.write("b.yaml")
    for _ in range(3):
        assert took_up(followed)
    assert len(about(yard.told, "is damaged in line 1")) == 1
    with pytest.raises(SdcronError, match="is damaged in line 1"):
        yard.follow()


def test_looking_takes_a_small_part_of_the_time(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_module, "_SHORTEST_SECONDS", 1000.0)
    followed = yard.follow()
    assert not followed.changed()
    yard.write("a.yaml")
    assert not followed.changed()


# Folders


def script(yard: Yard, name: str, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path = yard.root / "folders" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def folders(yard: Yard) -> Path:
    script(yard, "1day/at0730/backup.sh")
    script(yard, "5min/poll.sh")
    return yard.root / "folders"


def test_each_script_in_folders_is_a_job(yard: Yard, folders: Path) -> None:
    yard.follow(folders=folders)
    assert yard.commands() == {
        "1day-at0730-backup.sh": [f"{folders}/1day/at0730/backup.sh"],
        "5min-poll.sh": [f"{folders}/5min/poll.sh"],
    }
    assert yard.told == []


def test_the_last_script_of_a_folder_takes_its_job_with_it(yard: Yard, folders: Path) -> None:
    followed = yard.follow(folders=folders)
    (folders / "5min/poll.sh").unlink()
    assert took_up(followed)
    assert sorted(yard.applied()) == ["1day-at0730-backup.sh"]
    (folders / "1day/at0730/backup.sh").unlink()
    (folders / "1day/at0730").rmdir()
    (folders / "1day").rmdir()
    assert took_up(followed)
    assert yard.applied() == {}


def test_a_script_that_is_no_longer_executable_is_no_job_and_one_that_becomes_so_is(yard: Yard, folders: Path) -> None:
    followed = yard.follow(folders=folders)
    (folders / "5min/poll.sh").chmod(0o644)
    assert took_up(followed)
    assert sorted(yard.applied()) == ["1day-at0730-backup.sh"]
    assert about(yard.told, "is not executable")
    (folders / "5min/poll.sh").chmod(0o755)
    assert took_up(followed)
    assert len(yard.applied()) == 2


def test_a_folder_whose_name_says_nothing_is_told_once_and_the_others_go_on(yard: Yard, folders: Path) -> None:
    script(yard, "sometimes/x.sh")
    followed = yard.follow(folders=folders)
    assert len(yard.applied()) == 2
    script(yard, "5min/more.sh")
    assert took_up(followed)
    assert len(yard.applied()) == 3
    assert len(about(yard.told, "sometimes")) == 1


def test_what_changes_behind_a_link_is_seen(yard: Yard, folders: Path) -> None:
    elsewhere = yard.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.sh").write_text("true\n")
    (folders / "1hour").symlink_to(elsewhere)
    followed = yard.follow(folders=folders)
    assert len(yard.applied()) == 2
    (elsewhere / "x.sh").chmod(0o755)
    assert took_up(followed)
    assert "1hour-x.sh" in yard.applied()


def test_a_link_that_leads_back_hangs_nobody_and_hidden_trees_are_not_looked_at(yard: Yard, folders: Path) -> None:
    (folders / "1day/round").symlink_to(folders)
    deep = folders / ".git/objects"
    deep.mkdir(parents=True)
    followed = yard.follow(folders=folders)
    (deep / "new").write_text("")
    assert not took_up(followed)
    assert len(yard.applied()) == 2


def test_folders_and_files_are_followed_together(yard: Yard, folders: Path) -> None:
    yard.write("a.yaml")
    followed = yard.follow(yard.jobs_dir, folders=folders)
    assert len(yard.applied()) == 3
    (folders / "5min/poll.sh").unlink()
    (yard.jobs_dir / "a.yaml").unlink()
    assert took_up(followed)
    assert sorted(yard.applied()) == ["1day-at0730-backup.sh"]


def test_a_directory_of_folders_that_is_not_there_is_refused_at_the_start_and_told_later(
    yard: Yard, folders: Path
) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        yard.follow(folders=yard.root / "none")
    followed = yard.follow(folders=folders)
    folders.rename(yard.root / "away")
    assert took_up(followed)
    assert len(yard.applied()) == 2
    assert about(yard.told, "does not exist")
