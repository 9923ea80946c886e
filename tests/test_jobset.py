"""jobset: which files a path stands for, names over all of them, what is not supported yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdcron.errors import JobFileError, UsageError
from sdcron.jobfile import Context
from sdcron.jobset import check_supported, read_paths

CONTEXT = Context()


def write(directory: Path, **files: str) -> Path:
    """Write job files NAME.yaml."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def test_a_directory_is_its_yaml_files(tmp_path: Path) -> None:
    write(tmp_path, b="command: x", a="command: x")
    (tmp_path / "c.yml").write_text("command: x")
    for other in (".hidden.yaml", "README.md", "d.yaml~", "e.yaml.bak", "f.YAML"):
        (tmp_path / other).write_text("not a job: [")
    write(tmp_path / "deeper", g="command: x")
    jobs = read_paths([tmp_path], CONTEXT)
    assert [job.name for job in jobs.jobs] == ["a", "b", "c"]
    assert jobs.directories == (str(tmp_path.resolve()),)
    assert jobs.files == ()


def test_files_and_directories_go_together_and_each_file_is_read_once(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", a="command: x"), write(tmp_path / "two", b="command: x", c="command: x")
    link = tmp_path / "link"
    link.symlink_to(one)
    jobs = read_paths([one, link, two / "b.yaml", one / "a.yaml", one / ".." / "two" / "b.yaml"], CONTEXT)
    assert [job.name for job in jobs.jobs] == ["a", "b"]
    assert jobs.directories == (str(one.resolve()),)
    assert jobs.files == (str((two / "b.yaml").resolve()), str((one / "a.yaml").resolve()))


@pytest.mark.parametrize(
    ("name", "rename"), [("x.YAML", "x"), ("backup.conf", "backup"), (".x.yaml", "x"), ("a.b", "a"), ("a.b.c", "a.b")]
)
def test_a_single_file_that_its_directory_would_not_read_is_refused(name: str, rename: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("command: x")
    with pytest.raises(UsageError, match=re.escape(name)) as raised:
        read_paths([tmp_path / name], CONTEXT)
    assert raised.value.hint == f"rename it to {rename}.yaml"


def test_a_file_that_is_a_link_is_where_its_jobs_come_from(tmp_path: Path) -> None:
    real = write(tmp_path / "real", m="command: x")
    home = write(tmp_path / "home")
    (home / "l.yaml").symlink_to(real / "m.yaml")
    link = tmp_path / "link"
    link.symlink_to(home)
    jobs = read_paths([link / "l.yaml"], CONTEXT)
    assert jobs.files == (f"{home.resolve()}/l.yaml",) == (jobs.jobs[0].source.path,)


def test_sources_are_absolute_and_problems_are_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "jobs", a="command: x")
    monkeypatch.chdir(tmp_path)
    assert read_paths([Path("jobs")], CONTEXT).jobs[0].source.path == str(tmp_path.resolve() / "jobs" / "a.yaml")
    write(tmp_path / "jobs", a="command: 5")
    with pytest.raises(JobFileError) as raised:
        read_paths([Path("jobs")], CONTEXT)
    assert raised.value.problems[0].path == "jobs/a.yaml"


def test_an_empty_directory_is_an_empty_set(tmp_path: Path) -> None:
    assert read_paths([tmp_path], CONTEXT).jobs == ()


def test_a_path_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        read_paths([tmp_path / "nowhere"], CONTEXT)


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    write(tmp_path, a="command: 5\nuser: '%'", b="x: [", c="command: x", d="schedule: 61 * * * *\ncommand: x")
    with pytest.raises(JobFileError) as raised:
        read_paths([tmp_path], CONTEXT)
    assert [Path(problem.path).stem for problem in raised.value.problems] == ["a", "a", "b", "d"]
    assert raised.value.message == "4 problems in the job files"


def test_names_are_unique_over_everything(tmp_path: Path) -> None:
    write(tmp_path, a="command: x", b="# b\nname: a\ncommand: x", c="jobs:\n  d: {command: x}\n  a: {command: x}")
    with pytest.raises(JobFileError) as raised:
        read_paths([tmp_path], CONTEXT)
    told = [(Path(problem.path).name, problem.line, problem.message) for problem in raised.value.problems]
    taken = f"the job name 'a' is taken already, by {tmp_path}/a.yaml:1"
    assert told == [("b.yaml", 2, taken), ("c.yaml", 3, taken)]


def test_a_job_is_for_the_machines_that_its_hosts_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        everywhere="command: x",
        glob="hosts: WEB*\ncommand: x",
        named="hosts: [db1, web1.example.org]\ncommand: x",
        other="hosts: ['db*', 'web[2-9]', '*.example.com']\ncommand: x",
    )
    for host in ("web1.example.org", "Web1.Example.Org"):
        jobs = read_paths([tmp_path], Context(host=host))
        assert [job.name for job in jobs.jobs] == ["everywhere", "glob", "named"]
        assert [job.name for job in jobs.elsewhere] == ["other"]
        assert [job.name for job in jobs.of_all_hosts().jobs] == ["everywhere", "glob", "named", "other"]
    jobs = read_paths([tmp_path], Context(host="web1"))
    assert [job.name for job in jobs.jobs] == ["everywhere", "glob"]  # a longer name is another machine's
    assert [job.name for job in read_paths([tmp_path], Context(host="")).jobs] == ["everywhere"]


def test_two_jobs_may_have_one_name_on_different_machines(tmp_path: Path) -> None:
    write(tmp_path, a="name: backup\nhosts: web*\ncommand: a", b="name: backup\nhosts: db*\ncommand: b")
    assert [job.command for job in read_paths([tmp_path], Context(host="db7")).jobs] == [("b",)]
    assert [job.command for job in read_paths([tmp_path], Context(host="web7")).jobs] == [("a",)]


@pytest.mark.parametrize(
    ("one", "other", "host"),
    [
        ("hosts: w*", "hosts: [d*, w*]", "elsewhere"),  # the same glob
        ("hosts: w*", "hosts: '*1'", "w1"),  # both are for this one
        ("", "hosts: w*", "elsewhere"),  # one is for all
        ("hosts: w*", "", "elsewhere"),
    ],
)
def test_two_jobs_of_one_name_are_refused_where_they_meet(one: str, other: str, host: str, tmp_path: Path) -> None:
    write(tmp_path, a=f"name: backup\ncommand: a\n{one}", b=f"name: backup\ncommand: b\n{other}")
    with pytest.raises(JobFileError) as raised:
        read_paths([tmp_path], Context(host=host))
    assert [Path(problem.path).name for problem in raised.value.problems] == ["b.yaml"]


def test_an_insecure_directory_is_told_once(tmp_path: Path) -> None:
    write(tmp_path, a="command: x", b="command: x")
    for path in tmp_path.iterdir():
        path.chmod(0o644)
    tmp_path.chmod(0o777)
    with pytest.raises(JobFileError) as raised:
        read_paths([tmp_path], Context(root_owned_only=True))
    assert [problem.path for problem in raised.value.problems] == [str(tmp_path)]


def test_what_is_not_supported_yet_is_refused_at_its_place(tmp_path: Path) -> None:
    write(
        tmp_path,
        a="command: x\nping: https://x\nnotify: mailto:a@b\n",
        b="command: x\n",
        c="defaults:\n  ping: https://x\njobs:\n  d:\n    command: x\n    notify: mailto:a@b\n  e: {command: x}\n",
    )
    problems = check_supported(read_paths([tmp_path], CONTEXT).jobs)
    told = [(Path(problem.path).name, problem.line, problem.column, problem.message) for problem in problems]
    assert told == [
        ("a.yaml", 2, 1, "key 'ping' is not supported yet"),
        ("a.yaml", 3, 1, "key 'notify' is not supported yet"),
        ("c.yaml", 2, 3, "key 'ping' is not supported yet"),
        ("c.yaml", 6, 5, "key 'notify' is not supported yet"),
    ]
    assert problems[0].source_line == "ping: https://x"
    assert all(problem.hint for problem in problems)
    assert check_supported(read_paths([tmp_path / "b.yaml"], CONTEXT).jobs) == ()


def test_an_unsupported_key_is_refused_even_when_its_file_is_gone(tmp_path: Path) -> None:
    write(tmp_path, a="command: x\nping: https://x\n")
    jobs = read_paths([tmp_path], CONTEXT).jobs
    (tmp_path / "a.yaml").unlink()
    (problem,) = check_supported(jobs)
    assert problem.message == "key 'ping' is not supported yet"
