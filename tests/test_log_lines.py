"""The journal's entries of one job as the lines it printed: whole, with stream and run, and nobody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from sdcron.log_lines import Assembly, LogLine
from sdcron.output import compile_patterns
from sdcron.runs import Outcome
from tests.recorded import recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdcron.runs import Run

RUN, NEXT, HANDLER = "a" * 32, "b" * 32, "c" * 32
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
EXITED = "98e322203f7a4ed290d09fe03c09fe15"
SUCCEEDED = "7ad2d189f7e94e70a38c781354912448"
FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
STARTED = "39f53479d3a045ac8e11786248231fbf"
STOPPED = "9d1aaa27d60140bd96365438aad20286"

Entry = Mapping[str, "str | bytes"]


def manager(message: str, run_id: str = RUN, **fields: str) -> Entry:
    """What PID 1 says of the job's service."""
    own = {"SYSLOG_IDENTIFIER": "systemd", "UNIT": "sdcron-backup.service", "_PID": "1", "_UID": "0"}
    return {**own, "MESSAGE_ID": message, "INVOCATION_ID": run_id, "_SYSTEMD_UNIT": "init.scope", **fields}


def printed(text: str | bytes, priority: int = 6, stream: str = "", run_id: str = RUN, **fields: str) -> Entry:
    """A line that the job printed."""
    own = {"SYSLOG_IDENTIFIER": "sdcron-backup", "_SYSTEMD_UNIT": "sdcron-backup.service", "_UID": "0", "_PID": "77"}
    told = {"_SYSTEMD_INVOCATION_ID": run_id, "_STREAM_ID": stream or f"{run_id}-{priority}"}
    return {**own, **told, "MESSAGE": text, "PRIORITY": str(priority), **fields}


def nameless(entry: Entry, **fields: str) -> Entry:
    """The same, its process gone before journald looked."""
    lost = ("_SYSTEMD_UNIT", "_SYSTEMD_INVOCATION_ID")
    return {**{key: value for key, value in entry.items() if key not in lost}, **fields}


def assembly(**options: Any) -> Assembly:
    return Assembly("backup", user=False, uids=(0, 1000), **options)


def take(entries: Sequence[Entry], reader: Assembly | None = None, *, settle: bool = True) -> list[LogLine]:
    """The lines of entries that come a millisecond apart."""
    reader = reader or assembly()
    lines: list[LogLine] = []
    for number, entry in enumerate(entries):
        fields = {key: value.encode() if isinstance(value, str) else value for key, value in entry.items()}
        lines += reader.take(fields.get, 1_800_000_000_000_000 + number * 1000)
    return lines + (reader.settle(last=True) if settle else [])


def told(lines: Sequence[LogLine]) -> list[tuple[str, str]]:
    return [(line.event or line.stream, line.text) for line in lines]


BEGIN, END = manager(STARTING), manager(SUCCEEDED)


def test_a_run_is_its_beginning_its_lines_and_its_end() -> None:
    lines = take([BEGIN, printed("one"), printed("two", 4), END])
    assert told(lines) == [("start", ""), ("stdout", "one"), ("stderr", "two"), ("end", "success")]
    assert {line.run_id for line in lines} == {RUN}


def test_output_that_comes_after_systemds_word_stands_before_the_end() -> None:
    lines = take([BEGIN, printed("one"), END, printed("late"), manager(STARTING, NEXT), printed("x", run_id=NEXT)])
    assert told(lines) == [
        ("start", ""),
        ("stdout", "one"),
        ("stdout", "late"),
        ("end", "success"),
        ("start", ""),
        ("stdout", "x"),
    ]


def test_the_end_waits_until_nothing_more_comes() -> None:
    reader = assembly()
    assert told(take([BEGIN, printed("one"), END], reader, settle=False)) == [("start", ""), ("stdout", "one")]
    assert reader.ending
    assert told(reader.settle()) == [("end", "success")]
    assert reader.settle() == []


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        (
            [manager(EXITED, EXIT_CODE="exited", EXIT_STATUS="3"), manager(FAILED, UNIT_RESULT="exit-code")],
            "failure: exit status 3",
        ),
        (
            [manager(EXITED, EXIT_CODE="killed", EXIT_STATUS="9"), manager(FAILED, UNIT_RESULT="signal")],
            "killed: died of SIGKILL",
        ),
        ([manager(FAILED, UNIT_RESULT="timeout")], "timeout: took longer than its timeout"),
        ([manager(SUCCEEDED), manager(STOPPED, JOB_RESULT="done")], "killed: stopped by an administrator"),
    ],
)
def test_the_end_says_how_and_why(entries: list[Entry], text: str) -> None:
    assert told(take([BEGIN, *entries]))[-1] == ("end", text)


def test_the_record_says_it_better() -> None:
    record = recorded(run_id=RUN, outcome=Outcome.ABANDONED, reason="cut off by a shutdown")

    def record_of(run_id: str) -> Run | None:
        return record if run_id == RUN else None

    [*_, end] = take([BEGIN, END], assembly(record_of=record_of))
    assert (end.text, end.run) == ("abandoned: cut off by a shutdown", record)


@pytest.mark.parametrize("how", ["line-max", "pid-change"])
def test_a_line_that_journald_cut_is_whole_again(how: str) -> None:
    pieces = [printed("x" * 9, _LINE_BREAK=how), printed("err", 4), printed("y" * 9, _LINE_BREAK=how), printed("z")]
    assert told(take([BEGIN, *pieces]))[1:] == [("stderr", "err"), ("stdout", "x" * 9 + "y" * 9 + "z")]


@pytest.mark.parametrize("how", ["nul", "eof"])
def test_a_line_that_ended_otherwise_is_one(how: str) -> None:
    assert told(take([BEGIN, printed("a", _LINE_BREAK=how), printed("b")]))[1:] == [("stdout", "a"), ("stdout", "b")]


def test_the_rest_of_a_line_that_never_came_is_shown_at_the_end() -> None:
    assert told(take([BEGIN, printed("x", _LINE_BREAK="line-max"), END]))[1:] == [("stdout", "x"), ("end", "success")]
    assert told(take([BEGIN, printed("x", _LINE_BREAK="line-max")]))[1:] == [("stdout", "x")]


def test_an_endless_line_is_not_kept_in_memory() -> None:
    pieces = [printed("x" * 48_000, _LINE_BREAK="line-max")] * 50
    lines = take([BEGIN, *pieces])
    assert len(lines) == 4
    assert sum(len(line.text) for line in lines) == 50 * 48_000


def test_lines_without_a_unit_belong_to_the_run_that_is_on() -> None:
    lines = take([BEGIN, nameless(printed("one")), printed("other", 4), END, nameless(printed("two"))])
    assert [(line.stream, line.text, line.run_id) for line in lines if line.event is None] == [
        ("stdout", "one", RUN), ("stderr", "other", RUN), ("stdout", "two", RUN),
    ]  # fmt: skip


def test_a_stream_keeps_its_run_when_the_next_one_has_begun() -> None:
    entries = [BEGIN, nameless(printed("one")), END, manager(STARTING, NEXT), nameless(printed("two"))]
    assert [line.run_id for line in take(entries) if line.stream == "stdout"] == [RUN, RUN]


@pytest.mark.parametrize(
    ("entry", "taken"),
    [
        (nameless(printed("x"), _UID="1000"), True),
        (nameless(printed("x"), _UID="1001"), False),
        (printed("x", _SYSTEMD_UNIT="cron.service", _UID="1001"), False),
        (printed("x", _SYSTEMD_UNIT="session-4.scope"), True),
        (printed("x", SYSLOG_IDENTIFIER="sdcron-backup2"), True),
        (printed("x", SYSLOG_IDENTIFIER="sdcron-other", _SYSTEMD_UNIT="sdcron-other.service"), False),
        (manager(STARTING, NEXT, _PID="4711"), False),
        (manager(STARTING, NEXT, UNIT="sdcron-other.service"), False),
        (manager(STARTING, NEXT, SYSLOG_IDENTIFIER="sdcron-backup"), False),
    ],
)
def test_only_lines_that_journald_vouches_for_are_taken(entry: Entry, taken: bool) -> None:
    assert (len(take([BEGIN, entry])) == 2) is taken


@pytest.mark.parametrize("handler", ["tick", "queued", "after", "skipped"])
def test_what_the_other_handlers_say_is_sdcrons_too(handler: str) -> None:
    says = printed("Failed to start", 4, run_id=HANDLER, _SYSTEMD_UNIT=f"sdcron-backup@{handler}.service")
    assert told(take([BEGIN, says, END]))[1:] == [("end", "success"), ("sdcron", "Failed to start")]
    beside = printed("one", 6, run_id=NEXT, _SYSTEMD_UNIT="sdcron-backup@2.service")
    assert ("stdout", "one") in told(take([BEGIN, beside, END]))


def test_what_the_retry_handler_says_is_sdcrons_and_no_runs() -> None:
    says = printed("retry 1 of 3 is waiting", 5, run_id=HANDLER, _SYSTEMD_UNIT="sdcron-backup@retry.service")
    lines = take([BEGIN, manager(FAILED, UNIT_RESULT="timeout"), says])
    assert told(lines)[1:] == [("end", "timeout: took longer than its timeout"), ("sdcron", "retry 1 of 3 is waiting")]
    assert lines[-1].run_id is None
    assert told(take([BEGIN, nameless(says)]))[1:] == [("sdcron", "retry 1 of 3 is waiting")]


def test_what_could_not_be_started_and_what_the_run_logged_itself_is_told() -> None:
    cat = printed("Failed to execute process: No such file", 3, SYSLOG_IDENTIFIER="systemd-cat")
    spawn = printed("Failed at step USER", 3, SYSLOG_IDENTIFIER="(temd-cat)", UNIT="sdcron-backup.service")
    logged = {**printed("by itself", 5, SYSLOG_IDENTIFIER="myprogram"), "_TRANSPORT": "syslog"}
    assert told(take([BEGIN, cat, spawn, logged]))[1:] == [
        ("systemd", "Failed to execute process: No such file"),
        ("systemd", "Failed at step USER"),
        ("syslog", "myprogram: by itself"),
    ]


def test_a_condition_that_did_not_hold_is_told() -> None:
    skipped = manager(STARTED, "", MESSAGE="skipped, unmet condition check ConditionPathExists=/x")
    assert told(take([skipped])) == [("sdcron", "skipped, unmet condition check ConditionPathExists=/x")]


def test_what_is_to_be_redacted_is_nowhere() -> None:
    patterns = compile_patterns(["secret-[0-9]+"])
    entries = [
        BEGIN, printed("say secret-1 now"), printed("secret", _LINE_BREAK="line-max"), printed("-22 end"),
        printed("secret-3", 5, SYSLOG_IDENTIFIER="myprogram"),
    ]  # fmt: skip
    text = "".join(line.text for line in take(entries, assembly(patterns=patterns)))
    assert "secret-" not in text
    assert text.count("[redacted]") == 3


def test_bytes_that_are_no_text_are_shown_as_escapes() -> None:
    assert told(take([BEGIN, printed(b"\xff\xc3\xa4 ok")]))[1:] == [("stdout", "\\xffä ok")]


def test_a_users_own_manager_is_heard_and_nobody_else() -> None:
    reader = Assembly("backup", user=True, uids=(1000,))
    own = {
        "SYSLOG_IDENTIFIER": "systemd", "USER_UNIT": "sdcron-backup.service", "_UID": "1000", "MESSAGE_ID": STARTING,
        "USER_INVOCATION_ID": RUN, "_SYSTEMD_USER_UNIT": "init.scope", "_PID": "400",
    }  # fmt: skip
    line = {
        **printed("hello", _UID="1000"),
        "_SYSTEMD_USER_UNIT": "sdcron-backup.service",
        "_SYSTEMD_UNIT": "user@1000.service",
    }
    forged = {**own, "_UID": "1001", "USER_INVOCATION_ID": NEXT}
    assert told(take([own, line, forged], reader)) == [("start", ""), ("stdout", "hello")]


def test_the_json_shape_is_the_documented_one() -> None:
    [_, line] = take([BEGIN, printed("one")])
    assert list(line.as_json()) == ["time", "stream", "text", "run_id", "event"]
    assert line.as_json()["text"] == "one"
