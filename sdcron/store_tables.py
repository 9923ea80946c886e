"""The tables of the database of runs, and how those of an older version become those of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdcron.errors import SdcronError

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

VERSION = 2
"""PRAGMA user_version; raised with every change of the tables."""
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, outcome TEXT NOT NULL, host TEXT NOT NULL,
    backend TEXT NOT NULL, "trigger" TEXT, attempt INTEGER NOT NULL, scheduled_us INTEGER, started_us INTEGER,
    finished_us INTEGER, reason TEXT NOT NULL, exit_code INTEGER, signal TEXT, stdout_size INTEGER NOT NULL,
    stdout_truncated INTEGER NOT NULL, stderr_size INTEGER NOT NULL, stderr_truncated INTEGER NOT NULL,
    dropped_lines INTEGER NOT NULL, cpu_us INTEGER, memory_peak_bytes INTEGER, next_run_us INTEGER, job_digest TEXT,
    rare TEXT
);
CREATE INDEX runs_of_job ON runs (job, id);
CREATE TABLE outputs (run INTEGER PRIMARY KEY, stdout BLOB NOT NULL, stderr BLOB NOT NULL);
CREATE TABLE jobs (
    job TEXT PRIMARY KEY, last_run TEXT, stdout BLOB, stderr BLOB, last_success_us INTEGER,
    failures INTEGER NOT NULL DEFAULT 0, memory TEXT
) WITHOUT ROWID;
CREATE TABLE open_runs (run_id TEXT PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
"""
MIGRATIONS = {1: "ALTER TABLE runs ADD COLUMN rare TEXT;"}
"""What makes the tables of one version those of the next."""


def prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Make the tables, or bring them to this version. Raises SdcronError for those of a version to come."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        return
    while version in MIGRATIONS:
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[version]} PRAGMA user_version = {version + 1}; COMMIT;")
        version += 1
    check_version(path, version)


def check_version(path: Path, version: int) -> None:
    """Raises SdcronError unless the tables are of this version."""
    if version != VERSION:
        raise SdcronError(
            f"{path} was written by another version of sdcron (its tables are of version {version}, not {VERSION})",
            "upgrade sdcron, or move that file away: what job_status.log and the journal still have is read again",
        )
