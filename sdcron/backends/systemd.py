"""systemd over D-Bus: the only module that imports pystemd.

Speaks to org.freedesktop.systemd1 (its man page) by plain method calls: pystemd's objects would read and parse the
introspection XML of every unit first.
"""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdcron.backends import LastRun, UnitState
from sdcron.backends.refusals import is_unknown_unit, no_systemd, refused
from sdcron.errors import BackendError
from sdcron.units import PREFIX

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sdcron.units import Unit

_DESTINATION = b"org.freedesktop.systemd1"
_PATH = b"/org/freedesktop/systemd1"
_MANAGER = b"org.freedesktop.systemd1.Manager"
_PROPERTIES = b"org.freedesktop.DBus.Properties"

_NOT_SET = 2**64 - 1
_EXIT_KINDS = {1: "exited", 2: "killed", 3: "dumped"}
"""What waitid(2) calls CLD_EXITED, CLD_KILLED and CLD_DUMPED, in systemd's words."""
_STOP_SECONDS = 1.0
_SETTLE_SECONDS = 90.0
"""How long a timer may take to start or stop: systemd's own default for a unit."""
_POLL_SECONDS = 0.005
_SAME_RUN_TRIES = 5


class SystemdBackend:
    """One open connection to the manager of the system, or of the calling user."""

    def __init__(self, *, user: bool = False) -> None:
        """Connect. Raises BackendError when there is no systemd to talk to, or pystemd is missing."""
        # A reload of many units takes longer than D-Bus' 25 s; sd-bus reads this when it connects.
        os.environ.setdefault("SYSTEMD_BUS_TIMEOUT", "15min")
        self._user = user
        try:
            from pystemd.dbuslib import DBus, DBusAddress, apply_signature, path_encode
        except ImportError as error:
            raise BackendError(
                "the Python package pystemd is missing, which talks to systemd",
                "install it: apt install python3-pystemd, or pip install 'sdcron[systemd]'",
            ) from error
        self._encode_arguments = apply_signature
        self._encode_path = path_encode
        private = _private_socket() if user else None
        self._bus = DBusAddress(private, peer_to_peer=True) if private else DBus(user_mode=user)
        try:
            self._bus.open()
            self._property(_PATH, _MANAGER, "Version")
        except Exception as error:
            raise no_systemd(user, error) from error

    def close(self) -> None:
        """Close the connection; further calls fail."""
        self._bus.close()

    def version(self) -> str:
        """systemd's own version text, such as `252.39-1~deb12u1`."""
        return _decode(self._property(_PATH, _MANAGER, "Version"))

    def clock_synchronised(self) -> bool | None:
        """What timedated says of NTP (org.freedesktop.timedate1(5)); None if it cannot be asked."""
        arguments = self._encode_arguments(b"ss", [b"org.freedesktop.timedate1", b"NTPSynchronized"])
        destination, path = b"org.freedesktop.timedate1", b"/org/freedesktop/timedate1"
        try:
            return bool(self._bus.call_method(destination, path, _PROPERTIES, b"Get", arguments).body)
        except Exception as error:
            if not hasattr(error, "err_message"):
                raise
            return None

    def loaded(self) -> Mapping[str, UnitState]:
        """See Backend."""
        return self._list([], f"{PREFIX}*")

    def in_use(self) -> Mapping[str, UnitState]:
        """See Backend."""
        states = [b"active", b"reloading", b"activating", b"deactivating", b"failed"]
        return self._list(states, f"{PREFIX}*")

    def active_timers(self) -> Mapping[str, UnitState]:
        """See Backend."""
        return self._list([b"active"], f"{PREFIX}*.timer")

    def _list(self, states: list[bytes], pattern: str) -> dict[str, UnitState]:
        rows = self._manager("ListUnitsByPatterns", "asas", [states, [pattern.encode()]])
        return {_decode(row[0]): UnitState(_decode(row[2]), _decode(row[3]), _decode(row[4])) for row in rows or []}

    def is_loaded(self, name: str) -> bool:
        """See Backend."""
        try:
            self._manager("GetUnit", "s", [name.encode()])
        except BackendError as error:
            if is_unknown_unit(error):
                return False
            raise
        return True

    def is_active(self, name: str) -> bool:
        """See Backend."""
        return self._unit_property(name, "ActiveState") == "active"

    def is_waiting(self, timer: str) -> bool:
        """See Backend."""
        return self._unit_property(timer, "SubState") == "waiting"

    def failed_without_file(self) -> Sequence[str]:
        """See Backend."""
        return [name for name, state in self._list([b"failed"], f"{PREFIX}*").items() if state.load == "not-found"]

    def starting(self) -> Sequence[str]:
        """See Backend."""
        jobs = self._manager("ListJobs", "", []) or []
        names = ((_decode(row[1]), _decode(row[2])) for row in jobs)
        return [name for name, kind in names if kind == "start" and name.startswith(PREFIX)]

    def unit_of(self, pid: int) -> str | None:
        """See Backend."""
        try:
            path = self._manager("GetUnitByPID", "u", [pid])
        except BackendError:  # no such process, or one of no unit of this manager's
            return None
        return _decode(self._property(path, b"org.freedesktop.systemd1.Unit", "Id"))

    def state(self, name: str) -> UnitState:
        """LoadState, ActiveState and SubState of one unit; an unloaded one is inactive."""
        if not self.is_loaded(name):
            return UnitState("not-found", "inactive", "dead")
        return UnitState(*(self._unit_property(name, key) for key in ("LoadState", "ActiveState", "SubState")))

    def _unit_property(self, name: str, key: str) -> str:
        path = self._encode_path(_PATH + b"/unit", name.encode())
        return _decode(self._property(path, b"org.freedesktop.systemd1.Unit", key))

    def next_elapse(self, timer: str) -> datetime | None:
        """See Backend."""
        path = self._encode_path(_PATH + b"/unit", timer.encode())
        microseconds = self._property(path, b"org.freedesktop.systemd1.Timer", "NextElapseUSecRealtime")
        if not microseconds or microseconds >= 2**63:
            return None
        return datetime.fromtimestamp(microseconds / 1_000_000, tz=UTC)

    def is_outdated(self, name: str) -> bool:
        """See Backend."""
        path = self._encode_path(_PATH + b"/unit", name.encode())
        return bool(self._property(path, b"org.freedesktop.systemd1.Unit", "NeedDaemonReload"))

    def wait_ends(self, timer: str) -> datetime | None:
        """See Backend."""
        path = self._encode_path(_PATH + b"/unit", timer.encode())
        microseconds = self._property(path, b"org.freedesktop.systemd1.Timer", "NextElapseUSecMonotonic")
        if not microseconds or microseconds >= 2**63:
            return None
        left = microseconds / 1_000_000 - time.monotonic()
        return datetime.fromtimestamp(time.time() + left, tz=UTC)

    def run_in_progress(self, service: str) -> tuple[str, datetime] | None:
        """See Backend."""
        path, unit = self._encode_path(_PATH + b"/unit", service.encode()), b"org.freedesktop.systemd1.Unit"
        if _decode(self._property(path, unit, "ActiveState")) not in ("activating", "active", "deactivating"):
            return None
        since = self._property(path, unit, "InactiveExitTimestamp")
        return bytes(self._property(path, unit, "InvocationID")).hex(), datetime.fromtimestamp(since / 1e6, tz=UTC)

    def last_run(self, service: str) -> LastRun | None:
        """See Backend. Asks for single properties: a service has some 300."""
        for _ in range(_SAME_RUN_TRIES):
            if not self.is_loaded(service):
                return None
            last = self._last_run(service)
            # Another run that began meanwhile, or a unit that was forgotten, would give part of the answers.
            if self._invocation(service) == last.run_id:
                return last
        return LastRun("", active=True)

    def _invocation(self, service: str) -> str:
        path = self._encode_path(_PATH + b"/unit", service.encode())
        return bytes(self._property(path, b"org.freedesktop.systemd1.Unit", "InvocationID") or b"").hex()

    def _last_run(self, service: str) -> LastRun:
        path = self._encode_path(_PATH + b"/unit", service.encode())

        def get(name: str) -> Any:  # noqa: ANN401 - D-Bus values
            return self._property(path, b"org.freedesktop.systemd1.Service", name)

        run_id = self._invocation(service)
        active = self._unit_property(service, "ActiveState") not in ("inactive", "failed")
        cpu, peak, code = get("CPUUsageNSec"), self._memory_peak(path), get("ExecMainCode")
        return LastRun(
            run_id=run_id,
            active=active,
            result=_decode(get("Result")),
            exit_kind=_EXIT_KINDS.get(code, ""),
            exit_status=get("ExecMainStatus") if code else None,
            finished_us=get("ExecMainExitTimestamp") or None,
            cpu_us=cpu // 1000 if cpu < _NOT_SET else None,
            memory_peak_bytes=peak if peak and peak < _NOT_SET else None,
        )

    def _memory_peak(self, path: bytes) -> int:
        try:
            return int(self._property(path, b"org.freedesktop.systemd1.Service", "MemoryPeak"))
        except BackendError:  # systemd 252 does not know it
            return 0

    def start(self, names: Sequence[str], *, wait: bool = True) -> None:
        """See Backend."""
        for name in names:
            # A run conflicts with its retry timers: no start of one may end a run that has begun in the meantime.
            mode = b"fail" if "@retry-" in name else b"replace"
            self._manager("StartUnit", "ss", [name.encode(), mode])
        if wait:
            self._settle(names, "active", "start")

    def stop(self, names: Sequence[str], *, kill: bool = False) -> None:
        """See Backend."""
        stopped = []
        for name in names:
            try:
                self._manager("StopUnit", "ss", [name.encode(), b"replace"])
            except BackendError as error:
                if is_unknown_unit(error):
                    continue
                raise
            stopped.append(name)
        if kill:
            self._kill(stopped)
        # A service has its own stop timeout, with SIGKILL at the end of it.
        services = any(name.endswith(".service") for name in stopped)
        self._settle(stopped, "inactive", "stop", math.inf if services else _SETTLE_SECONDS)

    def _kill(self, names: Sequence[str]) -> None:
        """End all processes of services that are being stopped, but not what sdcron itself does at a run's end.

        After the stop: else systemd takes it for a death like any other, which is retried.
        """

        def kill(name: str, whom: bytes) -> None:
            with suppress(BackendError):  # it is over already
                self._manager("KillUnit", "ssi", [name.encode(), whom, signal.SIGKILL])

        for name in names:
            kill(name, b"main")
        waiting, deadline = set(names), time.monotonic() + _STOP_SECONDS
        while waiting:
            states = {name: self.state(name) for name in waiting}
            dying = {name for name, state in states.items() if state.sub in ("stop-sigterm", "final-sigterm")}
            # A busy systemd has the stop waiting for a moment; what is activating later is the next run.
            early = time.monotonic() < deadline
            waiting = dying | {name for name, state in states.items() if early and state.active == "activating"}
            for name in dying:
                path = self._encode_path(_PATH + b"/unit", name.encode())
                if not self._property(path, b"org.freedesktop.systemd1.Service", "MainPID"):
                    # The rest of its tree; ExecStopPost= comes after that.
                    kill(name, b"all")
            time.sleep(_POLL_SECONDS if waiting else 0)

    def cancel(self, names: Collection[str]) -> None:
        """See Backend."""
        for number, unit, kind, state, *_ in self._manager("ListJobs", "", []) or []:
            if _decode(unit) not in names:
                continue
            with suppress(BackendError):  # it is none any more
                if _decode(kind) == "restart":
                    # The run that was on is being ended; the next one is not to begin then.
                    self._manager("StopUnit", "ss", [_decode(unit).encode(), b"replace"])
                elif (_decode(kind), _decode(state)) == ("start", "waiting"):
                    self._manager("CancelJob", "u", [number])

    def drop_ins(self, name: str) -> Sequence[str]:
        """See Backend."""
        path = self._encode_path(_PATH + b"/unit", name.encode())
        found = self._property(path, b"org.freedesktop.systemd1.Unit", "DropInPaths")
        return [_decode(each) for each in found or ()]

    def reset_failed(self, names: Sequence[str]) -> None:
        """See Backend."""
        for name in names:
            try:
                self._manager("ResetFailedUnit", "s", [name.encode()])
            except BackendError as error:
                if not is_unknown_unit(error):
                    raise

    def start_transient(self, timer: Unit, others: Sequence[Unit]) -> None:
        """See Backend. Units among `others` that are in memory stay as they are."""
        from sdcron.backends.transient_call import arguments, keep_text

        runtime_dir = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}") if self._user else "/run"
        units = [timer, *(unit for unit in others if self.state(unit.name).load == "not-found")]
        reloaded = self._property(_PATH, _MANAGER, "UnitsLoadFinishTimestampMonotonic")
        flat = arguments(units, runtime_dir, self._encode_arguments)
        self._call(_PATH, _MANAGER, "StartTransientUnit", flat)
        for unit in units:
            try:
                keep_text(Path(runtime_dir, "systemd/transient", unit.name), unit.text)
            except FileNotFoundError as error:
                # It was dropped again at once, as one with settings that do not go together is.
                raise BackendError(f"systemd could not start {timer.name}", "see: journalctl -b -n 20") from error
        if self._property(_PATH, _MANAGER, "UnitsLoadFinishTimestampMonotonic") != reloaded:
            # Somebody's reload came between, and read what systemd had written itself.
            self.reload()
        self._settle([timer.name], "active", "start")

    def reload(self) -> None:
        """See Backend."""
        self._manager("Reload", "", [])

    def _settle(self, names: Sequence[str], wanted: str, verb: str, seconds: float = _SETTLE_SECONDS) -> None:
        """Wait until all are in the wanted ActiveState; raises BackendError naming those that failed."""
        waiting = set(names)
        deadline = time.monotonic() + seconds
        while waiting:
            states = {name: self.state(name) for name in waiting} if len(waiting) < 500 else self.loaded()
            now = {name: states.get(name, UnitState("not-found", "inactive", "dead")).active for name in waiting}
            failed = sorted(name for name, active in now.items() if active == "failed" and wanted == "active")
            if failed:
                raise BackendError(
                    f"systemd could not {verb} {', '.join(failed)}", f"see: systemctl status {failed[0]}"
                )
            waiting = {name for name, active in now.items() if active not in (wanted, "failed")}
            if waiting and time.monotonic() > deadline:
                raise BackendError(
                    f"systemd did not {verb} {', '.join(sorted(waiting)[:5])} within {seconds:.0f} s",
                    "see: systemctl list-jobs",
                )
            if waiting:
                time.sleep(_POLL_SECONDS)

    def _manager(self, method: str, signature: str, arguments: list[Any]) -> Any:  # noqa: ANN401 - D-Bus values
        encoded = self._encode_arguments(signature.encode(), arguments) if signature else []
        return self._call(_PATH, _MANAGER, method, encoded)

    def _property(self, path: bytes, interface: bytes, name: str) -> Any:  # noqa: ANN401 - D-Bus values
        arguments = self._encode_arguments(b"ss", [interface, name.encode()])
        return self._call(path, _PROPERTIES, "Get", arguments)

    def _call(self, path: bytes, interface: bytes, method: str, arguments: list[Any]) -> Any:  # noqa: ANN401 - as above
        try:
            return self._bus.call_method(_DESTINATION, path, interface, method.encode(), arguments).body
        except Exception as error:
            if not hasattr(error, "err_message"):
                raise
            raise refused(method, error, user=self._user) from error


def _private_socket() -> bytes | None:
    """The D-Bus address of the user manager's own socket, which systemctl(1) uses too; None if there is none.

    A server often has no session bus (Debian's dbus-user-session is only recommended), and needs none for this.
    """
    path = Path(os.environ.get("XDG_RUNTIME_DIR", ""), "systemd/private")
    if not path.is_absolute() or not path.exists():
        return None
    # D-Bus Specification, "Server Addresses": all but these characters is written as %xx.
    plain = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz/.*"
    return b"unix:path=" + b"".join(bytes([byte]) if byte in plain else b"%%%02x" % byte for byte in os.fsencode(path))


def _decode(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
