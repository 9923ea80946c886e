"""sdk.py, what jobs import: by itself, outside of sdcron, and with whoever runs the job hard of hearing."""

from __future__ import annotations

import os
import pty
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHECKOUT = Path(__file__).resolve().parent.parent
SDK = CHECKOUT / "sdcron/sdk.py"
RUNNER = CHECKOUT / "sdcron/function_runner.py"
PLAIN = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def interpreters() -> Iterator[str]:
    """Every Python from 3.11 on that is here."""
    yield sys.executable
    for path in sorted(Path.home().glob(".pyenv/versions/3.1*/bin/python3")):
        if (
            path.parent.parent.name.split(".")[1] in ("11", "12", "13", "14")
            and path.resolve() != Path(sys.executable).resolve()
        ):
            yield str(path)


def ran(
    script: str, directory: Path, environment: Mapping[str, str] | None = None, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """A script in a directory, with nothing of this one's environment."""
    return subprocess.run(
        [python, "-c", script],
        cwd=directory,
        env={**PLAIN, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A directory with nothing but a copy of the file."""
    shutil.copy(SDK, tmp_path)
    return tmp_path


class Listener:
    """Whoever runs the job, at the other end of SDCRON_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            self.socket.bind(path.name)
        finally:
            os.chdir(here)
        self.environment = {"SDCRON_SOCKET": str(path), "SDCRON_JOB": "job", "SDCRON_RUN_ID": "f" * 32}

    def close(self) -> None:
        """Hear no more."""
        self.socket.close()

    def heard(self) -> list[dict[str, str]]:
        """The fields of every message since the last call; who waits is let go."""
        found: list[dict[str, str]] = []
        while True:
            try:
                message, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return found
            for _, _, data in ancillary:
                os.close(int.from_bytes(data[:4], sys.byteorder))
            found.append(dict(line.split("=", 1) for line in message.decode().splitlines()))

    def meanwhile(self, run: Callable[[], subprocess.CompletedProcess[str]]) -> list[str]:
        """What is told of progress while something runs that ends well: more than a socket holds."""
        found: list[str] = []
        over = threading.Event()

        def listen() -> None:
            last = False
            while not last:
                last = over.wait(0.02)
                found.extend(message["SDCRON_PROGRESS"] for message in self.heard())

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            ended = run()
        finally:
            over.set()
            listening.join()
        assert (ended.returncode, ended.stderr) == (0, "")
        return found


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with closing(Listener(tmp_path / "socket")) as listener:
        yield listener


@pytest.mark.parametrize("python", list(interpreters()))
def test_it_works_alone_in_an_empty_directory_and_outside_of_sdcron(alone: Path, python: str) -> None:
    script = (
        "from sdk import alarm, current, log, progress\n"
        "run = current()\n"
        "print(run.job, run.run_id, run.attempt, run.trigger, run.for_)\n"
        "for number in range(100): progress(number, 99)\n"
        "progress(3)\n"
        "log.info('%s of %d', 'one', 2)\nlog.debug('two\\nlines')\nlog.error('%d', 'no number')\n"
        "alarm(' it\\n burns ')\nalarm('')\n"
    )
    ended = ran(script, alone, python=python)
    assert (ended.returncode, ended.stdout) == (0, "None None None None None\n")
    assert ended.stderr.splitlines() == [
        "info: one of 2", "debug: two", "debug: lines", "error: %d ('no number',)", "alarm: it burns",
    ]  # fmt: skip
    assert [path.name for path in alone.iterdir() if path.suffix == ".py"] == ["sdk.py"]


def test_to_import_it_loads_nothing_else_of_sdcron_and_next_to_nothing_of_python() -> None:
    script = (
        "import sys\nbefore = set(sys.modules)\nimport sdcron.sdk\n"
        "print(sorted(set(sys.modules) - before - {'__future__'}))\n"
    )
    ended = ran(script, CHECKOUT)
    assert ended.stdout == "['sdcron', 'sdcron.sdk']\n"


def test_its_names_are_those_that_are_told() -> None:
    ended = ran("from sdcron.sdk import *\nprint(sorted(name for name in dir() if name[0] != '_'))", CHECKOUT)
    assert ended.stdout == "['Current', 'alarm', 'current', 'log', 'progress']\n"


def test_on_a_terminal_progress_is_a_plain_line(alone: Path) -> None:
    ours, its = pty.openpty()
    script = "import sdk\nsdk.progress(13, 77)\nsdk.progress(5)\nsdk.progress(5, 0)\n"
    subprocess.run([sys.executable, "-c", script], cwd=alone, env=PLAIN, stderr=its, check=True, timeout=30)
    os.close(its)
    assert os.read(ours, 4096) == b"progress: 13/77 (17 %)\r\nprogress: 5\r\nprogress: 5/0\r\n"
    os.close(ours)


def test_a_hundred_thousand_calls_are_few_messages_and_the_last_one_arrives(alone: Path, listener: Listener) -> None:
    script = "import sdk\nfor number in range(100_000): sdk.progress(number)\n"
    began = time.monotonic()
    told = listener.meanwhile(lambda: ran(script, alone, listener.environment))
    assert told[0] == "0/"
    assert told[-1] == "99999/"
    assert len(told) <= 12 + 2 * (time.monotonic() - began)


def test_all_that_are_the_last_ones_are_few_messages_too(alone: Path, listener: Listener) -> None:
    script = "import sdk\nfor number in range(100_000): sdk.progress(number, number)\nsdk.progress(1, 1)"
    told = listener.meanwhile(lambda: ran(script, alone, listener.environment))
    assert len(told) < 40
    assert told[-1] == "1/1"


@pytest.mark.parametrize("value", ["'x'", "None", "-1", "float('nan')", "float('inf')", "1e300", "object()"])
def test_what_is_no_number_is_passed_over(alone: Path, listener: Listener, value: str) -> None:
    script = f"import sdk\nsdk.progress({value}, 5)\nsdk.progress(1, {value})\nsdk.progress(2.5, 5)"
    ended = ran(script, alone, listener.environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    told = [message["SDCRON_PROGRESS"] for message in listener.heard()]
    assert told == (["1/", "2.500/5"] if value == "None" else ["2.500/5"])


def test_nothing_that_is_said_can_be_another_field(alone: Path, listener: Listener) -> None:
    listener.environment["SDCRON_JOB"] = "job\nSDCRON_RUN_ID=other"
    ran("import sdk\nsdk.alarm('a\\nSDCRON_PROGRESS=1/2\\0\\udcff' + 2000 * 'x')", alone, listener.environment)
    [message] = listener.heard()
    assert message.keys() == {"SYSLOG_IDENTIFIER", "SDCRON_RUN_ID", "MESSAGE", "PRIORITY", "SDCRON_ALARM"}
    assert message["SDCRON_RUN_ID"] == "f" * 32
    assert len(message["SDCRON_ALARM"]) == 1000


def test_nobody_is_waited_for_for_long_and_nothing_is_raised(alone: Path, listener: Listener) -> None:
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as filler:
                filler.sendto(b"x", listener.environment["SDCRON_SOCKET"])
        except BlockingIOError:
            break
    began = time.monotonic()
    script = "import sdk\nfor number in range(1000): sdk.progress(number)\nsdk.alarm('full')"
    ended = ran(script, alone, listener.environment)
    assert (ended.returncode, ended.stderr) == (0, "alarm: full\n")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("place", ["gone", "socket/below", "", "x" * 300])
def test_where_nobody_listens_alarms_are_told_on_stderr(alone: Path, place: str) -> None:
    ended = ran(
        "import sdk\nsdk.progress(1, 2)\nsdk.alarm('unheard')",
        alone,
        {"SDCRON_SOCKET": f"{alone}/{place}", "SDCRON_JOB": "job"},
    )
    assert (ended.returncode, ended.stderr) == (0, "alarm: unheard\n")


def test_a_socket_with_a_long_path_is_found(alone: Path) -> None:
    directory = alone / ("d" * 150)
    directory.mkdir()
    with closing(Listener(directory / "socket")) as listener:
        assert ran("import sdk\nsdk.progress(1, 2)", alone, listener.environment).stderr == ""
        assert [message["SDCRON_PROGRESS"] for message in listener.heard()] == ["1/2"]


@pytest.mark.parametrize("gone", ["sys.stderr.close()", "sys.stderr = None"])
def test_without_standard_streams_nothing_is_raised(alone: Path, gone: str) -> None:
    script = f"import os, sdk, sys\n{gone}\nsdk.log.info('x')\nsdk.alarm('y')\nsdk.progress(1, 2)\nprint('end')\n"
    ended = ran(script, alone)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")


def test_a_forked_child_does_not_tell_what_its_parent_has_held_back(alone: Path, listener: Listener) -> None:
    script = (
        "import os, sdk\nfor number in range(50): sdk.progress(number)\n"
        "if os.fork() == 0:\n    raise SystemExit\nos.wait()\nsdk.progress(77)\n"
    )
    assert ran(script, alone, listener.environment).returncode == 0
    told = [message["SDCRON_PROGRESS"] for message in listener.heard()]
    assert told.count("49/") <= 1
    assert told[-1] == "77/"


def test_an_engine_tells_by_variables_which_run_it_is(alone: Path, listener: Listener) -> None:
    known = {"SDCRON_ATTEMPT": "3", "SDCRON_TRIGGER": "retry", "SDCRON_FOR": "2026-03-01T00:00:00+01:00"}
    ended = ran("import sdk\nprint(sdk.current())", alone, {**listener.environment, **known})
    assert ended.stdout == (
        f"Current(job='job', run_id='{'f' * 32}', attempt=3, trigger='retry', for_='2026-03-01T00:00:00+01:00')\n"
    )


# The same for shells


def told(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """sdcron-job."""
    return subprocess.run(
        [sys.executable, str(SDK), *arguments],
        env={**PLAIN, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_shell_says_the_same(listener: Listener) -> None:
    for arguments in (["progress", "13", "77"], ["progress", "2.5"], ["alarm", "it", "burns"]):
        began = time.monotonic()
        ended = told(*arguments, environment=listener.environment)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        # Nobody has taken it yet.
        assert time.monotonic() - began > 0.9
    messages = listener.heard()
    assert [message.get("SDCRON_PROGRESS") or message["SDCRON_ALARM"] for message in messages] == [
        "13/77", "2.500/", "it burns",
    ]  # fmt: skip
    assert told("log", "warning", "a", "b").stderr == "warning: a b\n"
    assert told("log", "warning").stderr == "info: warning\n"
    assert told("current", "for").stdout == "\n"
    assert told("current").stdout == "job=\nrun_id=\nattempt=\ntrigger=\nfor=\n"
    assert told("--help").stdout.startswith("usage: ")


def test_the_program_of_that_name_is_this_file() -> None:
    with (CHECKOUT / "pyproject.toml").open("rb") as stream:
        assert tomllib.load(stream)["project"]["scripts"]["sdcron-job"] == "sdcron.sdk:main"
    ended = ran("import sys\nfrom sdcron.sdk import main\nsys.exit(main(['current', 'job']))", CHECKOUT)
    assert (ended.returncode, ended.stdout) == (0, "\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["nothing"], ["progress"], ["progress", "x"], ["progress", "1", "-2"], ["alarm"], ["current", "x"]],
)
def test_words_that_mean_nothing_are_refused_with_those_that_do(arguments: list[str]) -> None:
    ended = told(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("sdcron-job: ")
    assert "usage: " in ended.stderr


# Functions that are jobs


def called(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None, installed: bool = True
) -> subprocess.CompletedProcess[str]:
    """The runner, as the engine and systemd start it; where sdcron is not to be found, without any packages."""
    return subprocess.run(
        [sys.executable, *([] if installed else ["-S"]), str(RUNNER), *arguments],
        cwd=directory,
        env={**PLAIN, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_function_finds_its_modules_and_not_those_of_sdcron(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("NAME = 'mine'\n")
    (tmp_path / "work.py").write_text(
        "import job, sys\nfrom sdcron import sdk\nimport sdcron.sdk\n"
        "def run():\n    print(job.NAME, sdk is sdcron.sdk, sys.argv, sys.path[0])\n    sdk.log.info('fine')\n"
        "    try:\n        from sdcron import job as other\n    except ImportError:\n        print('nothing else')\n"
        "async def later():\n    print('later')\n    return 5\n"
        "def large(): return 256\n"
        "def true(): return True\n"
    )
    ended = called(tmp_path, "work:run", installed=False)
    assert (ended.returncode, ended.stderr) == (0, "info: fine\n")
    assert ended.stdout == f"mine True ['work:run'] {tmp_path}\nnothing else\n"
    assert (called(tmp_path, "work:later").returncode, called(tmp_path, "work:true").returncode) == (5, 0)
    ended = called(tmp_path, "work:large")
    assert (ended.returncode, ended.stderr) == (1, "work:large returned 256, which is no exit status\n")


def test_a_function_gets_its_parameters_with_their_types(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        "def run(days, rate=1.0, *, dry=False, target='x'): print([days, rate, dry, target])\n"
    )
    declared = ["days:whole", "rate:number", "dry:truth", "target:text", "not_given:whole"]
    given = {"days": "7", "rate": "2", "dry": "true", "target": "7", "stray": "1"}
    environment = {f"SDCRON_PARAM_{name.upper()}": text for name, text in given.items()}
    ended = called(tmp_path, "work:run", *declared, environment=environment)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[7, 2.0, True, '7']\n", "")
    ended = called(tmp_path, "work:run", *declared, environment={**environment, "SDCRON_PARAM_DAYS": "x"})
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere:run", "No module named 'nowhere'"),
        ("work:nothing", "no attribute 'nothing'"),
        ("work:NAME", "not callable"),
    ],
)
def test_what_is_no_function_is_told_and_a_failure(tmp_path: Path, target: str, said: str) -> None:
    (tmp_path / "work.py").write_text("NAME = 1\n")
    ended = called(tmp_path, target)
    assert ended.returncode == 1
    assert said in ended.stderr
