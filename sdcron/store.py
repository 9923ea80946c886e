"""Where runs are kept: one SQLite database with runs, each job's last status, and how far the journal was read.

All of one step of the collector is one transaction, so a crash at any point loses nothing and doubles nothing: what
was not committed is read from the journal again. Knows nothing of the journal; what it keeps for the collector
between two starts are texts that only the collector reads.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Self

from sdcron.errors import SdcronError
from sdcron.runs import FAILED, Outcome, Run, Trigger
from sdcron.store_rows import COLUMNS, INSERT, SELECTED, packed, run_of, unpacked, values_of
from sdcron.store_tables import check_version, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

_BUSY_SECONDS = 10.0
_PRUNED_AT_ONCE = 2000
_DAY_US = 86_400_000_000
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class DamagedStoreError(SdcronError):
    """The database is not one any more, or was never one of ours."""


class StoreWriteError(SdcronError):
    """The database cannot be written now, as on a full disk. Nothing of the step is there; it can be tried again."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What is known of one job's past, also when its runs are too old to be kept."""

    last: Run | None
    last_success_us: int | None
    failures: int
    """Runs without success since the last one with it; skipped ones do not count."""


@dataclass(slots=True)
class Batch:
    """One step of the collector. `open_runs` and `memories` are texts of the collector's own, by run id and job."""

    closed: list[Run] = field(default_factory=list)
    open_runs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Job and state, by run id."""
    memories: dict[str, str] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    dropped: list[tuple[str, int]] = field(default_factory=list)
    """Jobs, and lines of their last recorded run of which journald told only now that it dropped them."""


class Store:
    """One open database."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def create(cls, path: Path) -> Self:
        """Open for writing, made if missing. Raises DamagedStoreError, StoreWriteError, SdcronError."""
        with _guarded(path):
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise DamagedStoreError(f"{path} is no file", "remove it")
            # A database is made under the umask: readable by those whom the directory lets in.
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                # The page cache is the collector's largest piece of memory.
                connection.execute("PRAGMA cache_size = -4096")
                prepare(path, connection)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Open for reading; None where there is none yet. Raises DamagedStoreError, SdcronError."""
        if not path.exists():
            return None
        uri = f"file:{_quoted(path)}?mode=ro"
        with _guarded(path):
            connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
            except sqlite3.OperationalError:
                # Nobody writes it, and we may not make the files that readers share (sqlite.org/wal.html).
                connection.close()
                connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
                version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.close()
                return None
            check_version(path, version)
        return cls(path, connection)

    def close(self) -> None:
        """Close it."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def check(self) -> None:
        """Look through all of it. Raises DamagedStoreError."""
        with _guarded(self._path):
            [[verdict]] = self._connection.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise DamagedStoreError(f"{self._path} is damaged: {verdict.splitlines()[-1]}", "")

    def see_that_it_is_there(self) -> None:
        """Find out whether others can read what this connection writes. Raises DamagedStoreError if not.

        An open file stays as it was for who has it open, also when it is deleted or written over.
        """
        other = Store.read(self._path)
        if other is None:
            raise DamagedStoreError(f"{self._path} was deleted or emptied", "")
        try:
            other.meta()
            for _ in other.history(limit=1):
                pass
        finally:
            other.close()

    def size(self) -> int:
        """Bytes of the database file."""
        return self._path.stat().st_size

    # The collector

    def commit(self, batch: Batch) -> list[tuple[int, Run]]:
        """Keep all of a step or nothing; returns the runs that were new, with their row ids in order.

        Raises StoreWriteError, DamagedStoreError.
        """
        fresh: list[tuple[int, Run]] = []
        with self._writing() as connection:
            for run in batch.closed:
                row = connection.execute(INSERT, values_of(run))
                if row.rowcount == 1 and row.lastrowid is not None:
                    fresh.append((row.lastrowid, run))
                    self._keep_output(row.lastrowid, run)
                    self._keep_status(run)
                connection.execute("DELETE FROM open_runs WHERE run_id = ?", (run.run_id,))
            connection.executemany(
                "INSERT OR REPLACE INTO open_runs VALUES (?, ?, ?)",
                ((run_id, job, state) for run_id, (job, state) in batch.open_runs.items()),
            )
            connection.executemany(
                "INSERT INTO jobs (job, memory) VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET memory = excluded.memory",
                batch.memories.items(),
            )
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", batch.meta.items())
            connection.executemany(
                "UPDATE runs SET dropped_lines = dropped_lines + ? WHERE id = (SELECT max(id) FROM runs WHERE job = ?)",
                [(lines, job) for job, lines in batch.dropped],
            )
        return fresh

    def meta(self) -> dict[str, str]:
        """All of the collector's own values."""
        with _guarded(self._path):
            return dict(self._connection.execute("SELECT key, value FROM meta"))

    def open_runs(self) -> dict[str, tuple[str, str]]:
        """Job and state by run id of the runs that had not ended at the last step."""
        with _guarded(self._path):
            rows = self._connection.execute("SELECT run_id, job, state FROM open_runs").fetchall()
        return {run_id: (job, state) for run_id, job, state in rows}

    def told(self) -> dict[str, tuple[str | None, str | None]]:
        """What runs that had not ended at the last step said of themselves, as JSON: progress and alarms, by run id."""
        query = (
            "SELECT run_id, json_extract(state, '$.progress'), json_extract(state, '$.alarms') FROM open_runs "
            "WHERE json_valid(state)"
        )
        with _guarded(self._path):
            return {run_id: (progress, alarms) for run_id, progress, alarms in self._connection.execute(query)}

    def memory(self, job: str) -> str | None:
        """What the collector remembers of a job."""
        with _guarded(self._path):
            row = self._connection.execute("SELECT memory FROM jobs WHERE job = ?", (job,)).fetchone()
        return row[0] if row else None

    def memories(self) -> dict[str, str]:
        """The same of every job."""
        with _guarded(self._path):
            return dict(self._connection.execute("SELECT job, memory FROM jobs WHERE memory IS NOT NULL"))

    def is_recorded(self, run_id: str) -> bool:
        """Whether a run with this id is kept."""
        with _guarded(self._path):
            return bool(self._connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone())

    def forget_jobs(self, before_us: int, is_known: Callable[[str], bool]) -> list[str]:
        """Forget jobs that are not known any more and ran last before; returns their names. Raises StoreWriteError."""
        with _guarded(self._path):
            names = [name for (name,) in self._connection.execute("SELECT job FROM jobs") if not is_known(name)]
        unknown = {name: status.last for name in names for status in self.statuses(name).values()}
        gone = [name for name, last in unknown.items() if last is None or _moment(last) < before_us]
        with self._writing() as connection:
            connection.executemany("DELETE FROM jobs WHERE job = ?", [(job,) for job in gone])
        return gone

    def prune(self, before_us: int, *, thorough: bool = False) -> int:
        """Forget runs that ended before; each job's last status stays. Returns how many.

        From the oldest on, until one is younger; `thorough` looks at all. Raises StoreWriteError.
        """
        removed = 0
        old = "coalesce(finished_us, started_us, 0) < ?"
        if not thorough:
            old = f"id < coalesce((SELECT min(id) FROM (SELECT id FROM runs WHERE NOT {old} LIMIT 1)), 1 << 62)"
        while True:
            with self._writing() as connection:
                query = f"SELECT id FROM runs WHERE {old} LIMIT {_PRUNED_AT_ONCE}"
                ids = connection.execute(query, (before_us,)).fetchall()
                connection.executemany("DELETE FROM outputs WHERE run = ?", ids)
                connection.executemany("DELETE FROM runs WHERE id = ?", ids)
            removed += len(ids)
            if len(ids) < _PRUNED_AT_ONCE:
                break
        if removed:
            with _guarded(self._path):
                self._connection.execute("PRAGMA incremental_vacuum").fetchall()
        return removed

    # Questions

    def statuses(self, job: str | None = None) -> dict[str, JobStatus]:
        """The last status of every job, or of one with the output of its last run."""
        columns = "job, last_run, last_success_us, failures" + (", stdout, stderr" if job is not None else "")
        where, values = ("WHERE job = ?", [job]) if job is not None else ("", [])
        with _guarded(self._path):
            rows = self._connection.execute(f"SELECT {columns} FROM jobs {where}", values).fetchall()
        return {
            name: JobStatus(unpacked(last, *(output or (b"", b""))), success, failures)
            for name, last, success, failures, *output in rows
        }

    def newest_id(self) -> int:
        """The highest row id there is, 0 for none."""
        with _guarded(self._path):
            return int(self._connection.execute("SELECT coalesce(max(id), 0) FROM runs").fetchone()[0])

    def history(
        self,
        job: str | None = None,
        *,
        limit: int | None = None,
        outcomes: Collection[Outcome] = (),
        triggers: Collection[Trigger] = (),
        since_us: int | None = None,
        until_us: int | None = None,
        run_id: str = "",
        output: bool = False,
    ) -> Iterator[Run]:
        """Recorded runs, the newest first; with their output if asked. `run_id` may be the beginning of one."""
        conditions: list[str] = []
        values: list[object] = []

        def require(condition: str, *more: object) -> None:
            conditions.append(condition)
            values.extend(more)

        if job is not None:
            require("job = ?", job)
        if outcomes:
            require(f"outcome IN ({', '.join('?' * len(outcomes))})", *map(str, outcomes))
        if triggers:
            require(f'"trigger" IN ({", ".join("?" * len(triggers))})', *map(str, triggers))
        if since_us is not None:
            require("coalesce(started_us, finished_us) >= ?", since_us)
        if until_us is not None:
            require("coalesce(started_us, finished_us) < ?", until_us)
        if run_id:
            require("run_id >= ? AND run_id < ?", run_id, run_id[:-1] + chr(ord(run_id[-1]) + 1))
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        join = "LEFT JOIN outputs ON outputs.run = runs.id" if output else ""
        columns = SELECTED + (", outputs.stdout, outputs.stderr" if output else "")
        end = f"ORDER BY runs.id DESC{f' LIMIT {int(limit)}' if limit is not None else ''}"
        with _guarded(self._path):
            for row in self._connection.execute(f"SELECT {columns} FROM runs {join} {where} {end}", values):
                yield run_of(row[: len(COLUMNS)], *row[len(COLUMNS) :])

    def after(self, row_id: int) -> Iterator[tuple[int, Run]]:
        """Runs with a larger row id, in order, with their output: what a log has to be given again."""
        query = (
            f"SELECT runs.id, {SELECTED}, outputs.stdout, outputs.stderr FROM runs "
            "LEFT JOIN outputs ON outputs.run = runs.id WHERE runs.id > ? ORDER BY runs.id LIMIT 500"
        )
        while True:
            with _guarded(self._path):
                rows = self._connection.execute(query, (row_id,)).fetchall()
            if not rows:
                return
            for row_id, *values in rows:
                yield row_id, run_of(values[: len(COLUMNS)], *values[len(COLUMNS) :])

    # How it works

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _guarded(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors, a full disk among them.
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _keep_output(self, row_id: int, run: Run) -> None:
        if run.stdout.kept or run.stderr.kept:
            self._connection.execute("INSERT INTO outputs VALUES (?, ?, ?)", (row_id, run.stdout.kept, run.stderr.kept))

    def _keep_status(self, run: Run) -> None:
        row = self._connection.execute("SELECT last_run FROM jobs WHERE job = ?", (run.job,)).fetchone()
        last = unpacked(row[0], None, None) if row else None
        if last is not None and _moment(run) < _moment(last) - _DAY_US:
            return  # read only now, for a database that is made anew; a clock is set back by less
        success = (run.finished_us or run.started_us) if run.outcome is Outcome.SUCCESS else None
        failures = {True: "jobs.failures + 1"}.get(run.outcome in FAILED, "jobs.failures")
        failures = "0" if run.outcome is Outcome.SUCCESS else failures
        self._connection.execute(
            "INSERT INTO jobs (job, last_run, stdout, stderr, last_success_us, failures) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (job) DO UPDATE SET last_run = excluded.last_run, stdout = excluded.stdout, "
            "stderr = excluded.stderr, last_success_us = coalesce(excluded.last_success_us, jobs.last_success_us), "
            f"failures = {failures}",
            (run.job, packed(run), run.stdout.kept, run.stderr.kept, success, int(run.outcome in FAILED)),
        )


def _moment(run: Run) -> int:
    return run.finished_us or run.started_us or 0


def set_aside(path: Path, moment: str) -> Path:
    """Rename a damaged database, and what SQLite keeps beside it, to `….damaged-MOMENT`; returns the new name."""
    aside = path.with_name(f"{path.name}.damaged-{moment}")
    for number in count(2):
        if not os.path.lexists(aside):
            break
        aside = path.with_name(f"{path.name}.damaged-{moment}.{number}")
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        with suppress(FileNotFoundError):
            source.rename(aside.with_name(aside.name + suffix))
    return aside


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _DAMAGED:
            raise DamagedStoreError(f"{path} is damaged: {error}", "") from error
        full = code == sqlite3.SQLITE_FULL
        hint = "free space there" if full else f"see who uses it: fuser {shlex.quote(str(path))}"
        if not os.access(path.parent, os.W_OK):
            hint = "run it as root (sudo)"
        raise StoreWriteError(f"{path}: {error}", hint) from error


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path))
