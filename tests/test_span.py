"""Time spans: what sdcron writes is what systemd reads, and what sdcron reads back."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdcron.span import parse_span, span

MICROSECOND = timedelta(microseconds=1)
LENGTHS = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3650))


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=1), "1s"),
        (timedelta(seconds=90), "1min 30s"),
        (timedelta(hours=1, minutes=30), "1h 30min"),
        (timedelta(days=2), "2d"),
        (timedelta(weeks=1), "7d"),
        (timedelta(milliseconds=1500), "1s 500ms"),
        (timedelta(microseconds=7), "7us"),
        (timedelta(days=1, seconds=1, microseconds=1001), "1d 1s 1ms 1us"),
    ],
)
def test_a_length_is_written_in_the_largest_units_that_hold_it(length: timedelta, text: str) -> None:
    assert span(length) == text


@given(LENGTHS)
def test_what_was_written_is_read_back_exactly(length: timedelta) -> None:
    assert parse_span(span(length)) == length


@pytest.mark.parametrize("text", ["", "soon", "5 apples", "-3s", "1.5s", "٣s"])
def test_what_span_never_wrote_is_no_length(text: str) -> None:
    assert parse_span(text) == timedelta(0)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_reads_the_same_length() -> None:
    lengths = [timedelta(microseconds=10**exponent * 7) for exponent in range(14)]
    lengths += [timedelta(0), timedelta(days=365, hours=23, minutes=59, seconds=59, milliseconds=999)]
    told = subprocess.run(
        ["systemd-analyze", "timespan", *map(span, lengths)], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    read = [int(line.split(":")[1]) for line in told.splitlines() if line.strip().startswith(("μs:", "us:"))]
    assert read == [length // MICROSECOND for length in lengths]
