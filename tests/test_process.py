"""One command, once: what it finds when it starts, what is said when it cannot, and how it ends. Real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import resource
import signal
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.process import Command, Ended, StartFailedError, login_environment, reap, start
from tests.apart import apart, children

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
ROOT = os.geteuid() == 0
OWN_NAME = pwd.getpwuid(os.geteuid()).pw_name

#: What makes a command go through fork, where it would not need to.
FORKED: dict[str, Any] = {"nice": os.getpriority(os.PRIO_PROCESS, 0)}
WAYS = pytest.mark.parametrize("way", [{}, FORKED], ids=["spawned", "forked"])


def command(*argv: str, **how: Any) -> Command:
    return Command(argv=argv, environment={**ENVIRONMENT, **how.pop("environment", {})}, **how)


def ended(pid: int) -> Ended:
    """Wait for one child and reap it."""
    while True:
        for one in reap():
            if one.pid == pid:
                return one
        time.sleep(0.002)


def output(what: Command) -> tuple[str, str]:
    """What it writes to its two streams. It must succeed."""
    pipes = [os.pipe(), os.pipe()]
    pid = start(what, pipes[0][1], pipes[1][1])
    texts = []
    for _, writing in pipes:
        os.close(writing)
    for reading, _ in pipes:
        with open(reading, encoding="utf-8", errors="surrogateescape") as stream:
            texts.append(stream.read())
    how = ended(pid)
    assert (how.kind, how.status) == ("exited", 0), texts
    return texts[0], texts[1]


def said(*argv: str, **how: Any) -> list[str]:
    """The lines of its standard output."""
    return output(command(*argv, **how))[0].splitlines()


def failure(*argv: str, **how: Any) -> StartFailedError:
    """Why it cannot be started; nothing of it may be left."""
    null = os.open("/dev/null", os.O_WRONLY)
    before = os.getcwd(), _umask(), os.listdir("/proc/self/fd")
    try:
        with pytest.raises(StartFailedError) as caught:
            start(command(*argv, **how), null, null)
    finally:
        assert before == (os.getcwd(), _umask(), os.listdir("/proc/self/fd"))
        os.close(null)
    assert children() == []
    return caught.value


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def program(path: Path, text: bytes, mode: int = 0o755) -> str:
    path.write_bytes(text)
    path.chmod(mode)
    return str(path)


# What it finds


@apart
@WAYS
def test_it_finds_its_arguments_environment_directory_and_umask(way: dict[str, Any], tmp_path: Path) -> None:
    script = 'pwd; umask; printf "%s|" "$@"; echo; env'
    here, mask = os.getcwd(), _umask()
    lines = said(
        *("sh", "-c", script, "-", "a b", "", "ü\udcff"),
        environment={"X": "1 2\udcff"},
        directory=str(tmp_path),
        umask=0o137,
        **way,
    )
    assert lines[:3] == [str(tmp_path), "0137", "a b||ü\udcff|"]
    assert set(lines[3:]) == {*(f"{k}={v}" for k, v in ENVIRONMENT.items()), "X=1 2\udcff", f"PWD={tmp_path}"}
    assert (os.getcwd(), _umask()) == (here, mask)


@apart
@WAYS
def test_its_two_streams_are_apart_and_it_has_nothing_to_read(way: dict[str, Any]) -> None:
    assert output(command("sh", "-c", "echo out; echo err >&2; cat", **way)) == ("out\n", "err\n")


@apart
@WAYS
def test_it_leads_a_session_and_a_group_of_its_own_without_a_terminal(way: dict[str, Any]) -> None:
    [fields] = said("sh", "-c", "exec cat /proc/self/stat", **way)
    pid, parent, group, session, terminal = (int(fields.split()[number]) for number in (0, 3, 4, 5, 6))
    assert (group, session, terminal, parent) == (pid, pid, 0, os.getpid())


@apart
def test_nothing_that_is_open_here_is_open_there() -> None:
    # As inherited from whoever started the engine: so before its first start.
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    for way in ({}, FORKED):
        # The fourth is the directory that ls reads.
        assert said("ls", "/proc/self/fd", **way) == ["0", "1", "2", "3"]
    for number in (inherited, *opened):
        os.close(number)


@apart
@WAYS
def test_pipes_may_have_the_numbers_of_standard_streams(way: dict[str, Any]) -> None:
    kept = [os.dup(number) for number in range(3)]
    null = os.open("/dev/null", os.O_WRONLY)
    for number in range(3):
        os.close(number)
    try:
        with pytest.raises(StartFailedError):
            start(command("/no/such", **way), null, null)
        assert output(command("sh", "-c", "cat; echo out; echo err >&2", **way)) == ("out\n", "err\n")
    finally:
        for number, copy in enumerate(kept):
            os.dup2(copy, number)


@apart
@WAYS
@pytest.mark.parametrize("blocked", [(), signal.valid_signals()], ids=["none blocked", "all blocked"])
def test_no_signal_is_blocked_and_none_but_sigpipe_ignored(way: dict[str, Any], blocked: set[int]) -> None:
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGRTMIN + 1, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    # typer and others set it back to its default.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    status = dict(line.split(":\t") for line in said("grep", "^Sig[BI]", "/proc/self/status", **way))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # The C library has two for itself, which posix_spawn(3) leaves ignored until a program needs them.
    own = 0b11 << (32 - 1)
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) & ~own == 1 << (signal.SIGPIPE - 1)


@apart
def test_niceness_and_limits_hold_from_the_first_instruction() -> None:
    limits = ((resource.RLIMIT_NOFILE, 55), (resource.RLIMIT_CORE, 0))
    nice = os.getpriority(os.PRIO_PROCESS, 0) + 3
    lines = said("sh", "-c", "nice; ulimit -Sn; ulimit -Hn; ulimit -c", nice=nice, limits=limits)
    assert lines == [str(nice), "55", "55", "0"]


@apart
def test_what_is_not_allowed_is_set_to_the_nearest_that_is() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = ((resource.RLIMIT_NOFILE, 2**40),)
    user = "daemon" if ROOT else None
    # The kernel has a bound even for root (fs.nr_open).
    lines = said("sh", "-c", "nice; ulimit -Sn; ulimit -Hn", nice=-5, limits=limits, user=user)
    assert lines[1:] == [str(hard), str(hard)]
    lowest = 20 - resource.getrlimit(resource.RLIMIT_NICE)[0]
    assert int(lines[0]) in (-5, min(os.getpriority(os.PRIO_PROCESS, 0), lowest))


@apart
@pytest.mark.parametrize(
    ("io", "expected"),
    [
        ("idle", "idle"),
        ("best-effort", "best-effort: prio 4"),
        ("best-effort:7", "best-effort: prio 7"),
        ("none", "best-effort: prio 4"),
    ],
)
def test_io_priority_is_what_systemd_makes_of_it(io: str, expected: str) -> None:
    assert said("ionice", io=io) == [expected]


@apart
def test_a_realtime_io_priority_is_set_or_refused() -> None:
    # root may have lost the right to it.
    try:
        assert said("ionice", io="realtime:2") == ["realtime: prio 2"]
    except StartFailedError as error:
        assert (error.step, error.status, error.number) == ("IOPRIO", 211, errno.EPERM)


# Who it is


@apart
@pytest.mark.parametrize("by", ["name", "number"])
def test_it_runs_as_another_user_with_that_users_groups(by: str) -> None:
    account = pwd.getpwnam("daemon")
    user = "daemon" if by == "name" else str(account.pw_uid)
    if not ROOT:
        error = failure("id", user=user)
        assert (error.step, error.status, error.number) == ("GROUP", 216, errno.EPERM)
        return
    groups = sorted(os.getgrouplist("daemon", account.pw_gid))
    lines = said("sh", "-c", "id -u; id -ru; id -g; id -G; grep CapEff /proc/self/status", user=user)
    assert lines[:3] == [str(account.pw_uid)] * 2 + [str(account.pw_gid)]
    assert sorted(map(int, lines[3].split())) == groups
    assert int(lines[4].split()[1], 16) == 0


@apart
def test_it_runs_with_another_group() -> None:
    uid, gid = pwd.getpwnam("daemon").pw_uid, pwd.getpwnam("nobody").pw_gid
    if not ROOT:
        assert failure("id", group=str(gid)).status == 216
        return
    assert said("sh", "-c", "id -u; id -g", group=str(gid)) == ["0", str(gid)]
    assert said("sh", "-c", "id -u; id -g", user="daemon", group=str(gid)) == [str(uid), str(gid)]


@apart
def test_whoever_it_is_already_needs_no_privilege() -> None:
    assert said("id", "-un", user=OWN_NAME) == [OWN_NAME]
    assert said("id", "-un", user=str(os.geteuid()), group=str(os.getegid())) == [OWN_NAME]


@apart
def test_a_directory_is_entered_as_the_user(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    if ROOT:
        # The directories above are pytest's, and closed too.
        error = failure("true", user="daemon", directory=str(closed))
        assert (error.step, error.status, error.reason) == ("CHDIR", 200, "Permission denied")
        os.chown(closed, pwd.getpwnam("daemon").pw_uid, -1)
        for directory in (closed, *closed.parents):
            with contextlib.suppress(OSError):
                directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
        assert said("pwd", user="daemon", directory=str(closed)) == [str(closed)]
    else:
        closed.chmod(0)
        assert failure("true", directory=str(closed)).status == 200


@apart
def test_it_starts_from_a_directory_that_may_not_be_searched_any_more(tmp_path: Path) -> None:
    os.chdir(tmp_path)
    if ROOT:
        tmp_path.chmod(0o700)
        os.seteuid(1)
    else:
        tmp_path.chmod(0)
    assert said("pwd") == ["/"]


def test_the_login_environment_is_that_of_user_in_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    def account(name: str, uid: int, home: str, shell: str) -> None:
        entry = pwd.struct_passwd((name, "x", uid, uid, "", home, shell))
        monkeypatch.setattr(pwd, "getpwnam", {name: entry}.__getitem__)
        monkeypatch.setattr(pwd, "getpwuid", {uid: entry}.__getitem__)

    account("jo", 4242, "/home/jo", "/bin/bash")
    everything = {"USER": "jo", "LOGNAME": "jo", "HOME": "/home/jo", "SHELL": "/bin/bash"}
    assert login_environment("jo") == everything
    assert login_environment("4242") == everything
    account("daemon", 1, "/usr/sbin", "/usr/sbin/nologin")
    assert login_environment("daemon") == {"USER": "daemon", "LOGNAME": "daemon", "HOME": "/usr/sbin"}
    account("odd", 2, "/", "/bin/false")
    assert login_environment("odd") == {"USER": "odd", "LOGNAME": "odd"}
    account("none", 3, "", "")
    assert login_environment("none") == {"USER": "none", "LOGNAME": "none"}
    account("nobody", 65534, "/nonexistent", "/bin/sh")
    assert login_environment("nobody") == {"USER": "nobody", "LOGNAME": "nobody"}
    with pytest.raises(StartFailedError) as caught:
        login_environment("jo")
    assert caught.value.status == 217


# Which program


@apart
@WAYS
def test_a_program_is_searched_on_the_path_of_the_job(way: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    program(tmp_path / "it", b"#!/bin/sh\necho first $0\n")
    program(tmp_path / "sub/it", b"#!/bin/sh\necho second $0\n")
    program(tmp_path / "sub/other", b"#!/bin/sh\necho other $0\n")
    path = {"PATH": f"{tmp_path}/none:{tmp_path}/it:{tmp_path}:{tmp_path}/sub:/bin"}
    assert said("it", environment=path, **way) == [f"first {tmp_path}/it"]
    assert said("other", environment=path, **way) == [f"other {tmp_path}/sub/other"]
    assert said("it", environment={"PATH": ":/bin"}, directory=str(tmp_path), **way) == ["first it"]
    assert said("./it", environment={"PATH": "/bin"}, directory=f"{tmp_path}/sub", **way) == ["second ./it"]


@apart
@WAYS
def test_a_script_without_an_interpreter_is_the_shells_as_systemd_cat_has_it(
    way: dict[str, Any], tmp_path: Path
) -> None:
    path = program(tmp_path / "script", b'echo "$0" "$@"\n')
    assert said(path, "a", "b c", **way) == [f"{path} a b c"]
    assert said("script", "a", environment={"PATH": f"{tmp_path}:/bin"}, **way) == [f"{path} a"]


@apart
@WAYS
def test_a_program_that_is_not_found_or_not_one_is_systemd_cats_exit_status(
    way: dict[str, Any], tmp_path: Path
) -> None:
    plain = program(tmp_path / "plain", b"x", 0o644)
    interpreter = program(tmp_path / "interpreter", b"#!/no/such\n")
    for argv, number in {
        ("/no/such",): errno.ENOENT,
        ("no-such-program",): errno.ENOENT,
        ("",): errno.ENOENT,
        (plain,): errno.EACCES,
        ("plain",): errno.EACCES,
        (str(tmp_path),): errno.EACCES,
        (f"{plain}/x",): errno.ENOTDIR,
        (interpreter,): errno.ENOENT,
        ("x" * 300,): errno.ENAMETOOLONG,
        ("echo", "x" * 200_000): errno.E2BIG,
    }.items():
        error = failure(*argv, environment={"PATH": f"{plain}:{tmp_path}:/usr/bin:/bin"}, **way)
        assert (error.step, error.status, error.number) == ("EXEC", 1, number), argv
        assert (error.detail, error.line) == ("", f"Failed to execute process: {os.strerror(number)}")


@apart
@WAYS
def test_what_fails_before_the_program_is_told_by_step(way: dict[str, Any], tmp_path: Path) -> None:
    file = program(tmp_path / "file", b"")
    for how, step, status, number in [
        ({"directory": "/no/such"}, "CHDIR", 200, errno.ENOENT),
        ({"directory": file}, "CHDIR", 200, errno.ENOTDIR),
        ({"user": "no-such-user", "group": "no-such-group", "directory": "/no"}, "USER", 217, errno.ESRCH),
        ({"user": "4294000000"}, "USER", 217, errno.ESRCH),
        ({"user": "99999999999999999999"}, "USER", 217, errno.ESRCH),
        ({"group": "no-such-group", "directory": "/no"}, "GROUP", 216, errno.ESRCH),
        ({"group": "4294000000"}, "GROUP", 216, errno.ESRCH),
    ]:
        error = failure("/no/such", **how, **way)
        assert (error.step, error.status, error.number) == (step, status, number)
        assert error.detail == f"could not be started, at step {step}: {os.strerror(number)}"
        assert (error.line, error.message) == ("", error.detail)


@apart
@WAYS
def test_a_lack_of_descriptors_or_processes_is_let_through(way: dict[str, Any]) -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    start_it = command("true", **way)
    ended(start(start_it, null, null))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (null + 1, hard))
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        start(start_it, null, null)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if ROOT:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(54321, 54321, 54321)
    with pytest.raises(BlockingIOError):
        start(start_it, null, null)
    os.close(null)
    assert children() == []


# How it ends


@apart
def test_how_a_command_ended_is_told_in_systemds_words() -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for script, kind, status in [
        ("exit 0", "exited", 0),
        ("exit 255", "exited", 255),
        ("kill -TERM $$", "killed", signal.SIGTERM),
        ("kill -KILL $$", "killed", signal.SIGKILL),
        ("kill -37 $$", "killed", 37),
    ]:
        pid = start(command("sh", "-c", script), null, null)
        assert ended(pid) == Ended(pid, kind, status, 0)
    pid = start(command("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"), null, null)
    assert 1_000 < ended(pid).cpu_us < 30_000_000
    assert list(reap()) == []


@apart
def test_a_core_dump_is_told(tmp_path: Path) -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    pid = start(command("sh", "-c", "kill -SEGV $$", directory=str(tmp_path)), null, null)
    how = ended(pid)
    assert how.status == signal.SIGSEGV
    # Whether one is written is up to the machine.
    assert how.kind == ("dumped" if any(tmp_path.iterdir()) else how.kind)
    assert how.kind in ("dumped", "killed")


@apart
def test_all_that_have_ended_are_reaped_at_once_and_no_one_is_waited_for() -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    going = start(command("sleep", "100"), null, null)
    pids = {start(command("true"), null, null) for _ in range(50)}
    reaped: set[int] = set()
    while reaped != pids:
        reaped |= {one.pid for one in reap()}
        assert going not in reaped
    os.kill(going, signal.SIGTERM)
    assert ended(going).status == signal.SIGTERM


@apart
def test_a_thousand_starts_leave_neither_descriptors_nor_zombies() -> None:
    null = os.open("/dev/null", os.O_WRONLY)
    list(map(ended, [start(command("true"), null, null)]))
    before = os.listdir("/proc/self/fd")
    count = 0
    for number in range(1000):
        with contextlib.suppress(StartFailedError):
            start(command("true" if number % 10 else "no-such-program"), null, null)
        if number % 100 == 0:
            ended(start(command("true", **FORKED), null, null))
        count += sum(1 for _ in reap())
    while children():
        count += sum(1 for _ in reap())
        time.sleep(0.001)
    assert os.listdir("/proc/self/fd") == before
    # Some are reaped while another is waited for.
    assert 100 < count <= 910
