"""Unit texts -> the typed properties of StartTransientUnit, as systemd-run(1) makes them.

Knows the directives that units.py writes and the common ones a user passes through; any other is refused by name, so
that nothing of a job is lost on the way. The types are those of org.freedesktop.systemd1(5), but for a few that systemd
takes in another form than it shows them: Conditions, TimersCalendar, TimersMonotonic.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdcron.backends import unit_values
from sdcron.backends.unit_syntax import commands, expand_specifiers, settings, words
from sdcron.errors import BackendError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdcron.units import CompiledJob, Unit

Property = tuple[str, str, Any]
"""Name, D-Bus signature and value; texts are bytes, as pystemd wants them."""

_Expand = Callable[[str], str]
_Rule = Callable[[str, str, _Expand], list[Property]]

_WITHOUT = "apply this job without --transient"


def unit_properties(text: str, runtime_dir: str = "/run") -> list[Property]:
    """The properties that make a transient unit what this text makes of a unit file; `%t` is `runtime_dir`.

    [Install] and sections beginning with X- are left out, and so is Unit= of a timer, which systemd does not let anyone
    set: see transient_units. Raises BackendError naming what a transient unit cannot have.
    """
    properties: list[Property] = []
    capabilities: dict[str, list[str]] = {}
    for section, key, value in settings(text):
        if section == "Install" or section.startswith("X-"):
            continue
        if section == "Service" and key in _CAPABILITIES:
            capabilities.setdefault(key, []).append(value)
            continue
        rule = _rule(section, key)
        try:
            properties += rule(key, value, lambda part: expand_specifiers(part, runtime_dir))
        except ValueError as error:
            raise _meaningless(key, value) from error
        except BackendError as error:
            raise BackendError(f"{key}= in [{section}]: {error.message}", error.hint) from error
    for key, lines in capabilities.items():
        # systemd merges the lines of a unit file, but takes only the last property.
        try:
            properties.append((key, "t", unit_values.capabilities(lines, _CAPABILITIES[key])))
        except ValueError as error:
            raise _meaningless(key, " ".join(lines)) from error
    return properties


def _meaningless(key: str, value: str) -> BackendError:
    return BackendError(f"{key}={value} means nothing to systemd", "see systemd.directives(7)")


def transient_units(units: Sequence[Unit], runtime_dir: str = "/run") -> list[tuple[str, list[Property]]]:
    """Names and properties for StartTransientUnit, in the order of `units`.

    A transient timer always starts the service of its own name, so each timer with another Unit= gets a service of that
    name, which pulls the real one in. Raises BackendError.
    """
    made = [(unit.name, unit_properties(unit.text, runtime_dir)) for unit in units]
    for unit in units:
        target = triggered(unit)
        own = unit.name.removesuffix(".timer") + ".service"
        if target and target != own:
            text = (
                f"[Unit]\nDescription=Starts {target} for {unit.name}\nWants={target}\n"
                "[Service]\nType=oneshot\nExecStart=/bin/true\n"
            )
            made.append((own, unit_properties(text, runtime_dir)))
    return made


def triggered(unit: Unit) -> str | None:
    """The Unit= of a timer's text; None for other units, and for a timer that does not name any."""
    named = [value for section, key, value in settings(unit.text) if (section, key) == ("Timer", "Unit")]
    return named[-1] if named and unit.name.endswith(".timer") else None


def refusals(jobs: Sequence[CompiledJob]) -> tuple[Problem, ...]:
    """What in these jobs cannot be transient: runs at boot, jobs that nothing keeps in memory, unknown directives."""
    return tuple(problem for job in jobs for problem in _refusals(job))


def _refusals(job: CompiledJob) -> Iterator[Problem]:
    if job.after or job.needs:
        key = "after" if job.after else "needs"
        message = f"'{key}' is about more than one boot, and what --transient makes is gone at the next one"
        yield _problem(job, key, message, f"remove '{key}', or {_WITHOUT}")
        return
    schedules = [unit.text for unit in job.units if "\n[Install]\n" in unit.text]
    if not schedules:
        message = f"job {job.name} has no schedule: nothing would keep a transient unit of it"
        yield _problem(job, "schedule", message, f"add a schedule, or {_WITHOUT}")
    elif any("\nOnCalendar=" not in text for text in schedules):
        message = "@reboot: units made with --transient do not survive a boot"
        yield _problem(job, "schedule", message, f"take @reboot out, or {_WITHOUT}")
    if any(unit.name.endswith("@tick.service") for unit in job.units):
        message = (
            "of 'overlap' --transient can only skip: a transient timer starts no other unit than its job's service"
        )
        yield _problem(job, "overlap", message, f"write 'overlap: skip', or {_WITHOUT}")
        return
    for unit in job.units:
        try:
            unit_properties(unit.text)
        except BackendError as error:
            yield _problem(job, "systemd", f"{unit.name}: {error.message}", error.hint)


def _problem(job: CompiledJob, key: str, message: str, hint: str) -> Problem:
    from sdcron.jobfile import locate_key

    line, column, source_line = locate_key(job.source, job.name, key)
    return Problem(job.source, line, column, message, key, hint, source_line)


def _rule(section: str, key: str) -> _Rule:
    rule = _SECTIONS.get(section, {}).get(key)
    if rule is None and section == "Unit" and key.startswith(("Condition", "Assert")):
        return _condition
    if rule is None and section == "Service" and key.startswith("Limit"):
        return _resource_limit
    if rule is None:
        raise BackendError(f"{key}= in [{section}] cannot be set on a transient unit", _WITHOUT)
    return rule


def _typed(signature: str, read: Callable[[str], Any], rename: Callable[[str], str] = str) -> _Rule:
    """A rule for one value that `read` understands, of a property whose name `rename` gives."""
    return lambda key, value, _: [(rename(key), signature, read(value))]


def _text(key: str, value: str, expand: _Expand) -> list[Property]:
    return [(key, "s", expand(value).encode())]


def _word_list(key: str, value: str, expand: _Expand) -> list[Property]:
    return [(key, "as", [expand(word).encode() for word in words(value)])]


def _literal_word_list(key: str, value: str, expand: _Expand) -> list[Property]:
    """Words in which a backslash makes the next character a plain one, as systemd reads paths."""
    return [(key, "as", [expand(word).encode() for word in words(value, escapes=False)])]


def _name_list(key: str, value: str, expand: _Expand) -> list[Property]:
    """Names, taken as they are: those of units may hold backslashes, systemd.unit(5), "String Escaping"."""
    return [(key, "as", [expand(name).encode() for name in value.split()])]


def _microseconds_key(key: str) -> str:
    return key.removesuffix("Sec") + "USec"


def _boolean_or_more(key: str, value: str, expand: _Expand) -> list[Property]:
    """A switch that newer systemds give more positions than two."""
    try:
        return [(key, "b", unit_values.boolean(value))]
    except ValueError:
        return [(f"{key}Ex", "s", expand(value).encode())]


def _timeout(key: str, value: str, expand: _Expand) -> list[Property]:
    """TimeoutSec=, which stands for two."""
    del key, expand
    length = unit_values.microseconds_or_never(value)
    return [("TimeoutStartUSec", "t", length), ("TimeoutStopUSec", "t", length)]


def _share(key: str, value: str, expand: _Expand) -> list[Property]:
    """An amount, or a part of all there is."""
    del expand
    if value.endswith("%"):
        return [(f"{key}Scale", "u", unit_values.scale(value))]
    return [(key, "t", unit_values.size(value or "infinity"))]


def _cpu_quota(key: str, value: str, expand: _Expand) -> list[Property]:
    del key, expand
    quota = unit_values.ten_thousandths(value) * 100 if value else unit_values.INFINITY
    return [("CPUQuotaPerSecUSec", "t", quota)]


def _resource_limit(key: str, value: str, expand: _Expand) -> list[Property]:
    del expand
    soft, hard = unit_values.resource_limit(key, value)
    return [(key, "t", hard), (f"{key}Soft", "t", soft)]


def _condition(key: str, value: str, expand: _Expand) -> list[Property]:
    kind = "Conditions" if key.startswith("Condition") else "Asserts"
    if not value:
        return [(kind, "a(sbbs)", [])]
    rest = value.removeprefix("|")
    trigger, parameter = rest != value, rest.removeprefix("!")
    return [(kind, "a(sbbs)", [(key.encode(), trigger, parameter != rest, expand(parameter.strip()).encode())])]


def _exec(key: str, value: str, expand: _Expand) -> list[Property]:
    """A command line; `$` stays as it is, since systemd expands variables when the command starts."""
    lines = []
    for prefixes, (program, *arguments) in commands(value):
        argv = [expand(word).encode() for word in (program, *arguments)]
        path = argv[0]
        if "@" in prefixes:
            argv = argv[1:]
        flags = [name for prefix, name in _EXEC_FLAGS.items() if prefix in prefixes]
        if "!!" in prefixes:
            flags = [b"ambient" if flag == b"no-setuid" else flag for flag in flags]
        lines.append((path, argv, flags))
    return [(f"{key}Ex", "a(sasas)", lines)]


_EXEC_FLAGS = {"-": b"ignore-failure", "+": b"privileged", "!": b"no-setuid", ":": b"no-env-expand", "|": b"via-shell"}


def _environment_file(key: str, value: str, expand: _Expand) -> list[Property]:
    del key
    path = value.removeprefix("-")
    return [("EnvironmentFiles", "a(sb)", [(expand(path).encode(), path != value)] if value else [])]


def _credential(key: str, value: str, expand: _Expand) -> list[Property]:
    if not value:
        return [(key, "a(ss)", [])]
    name, _, path = value.partition(":")
    return [(key, "a(ss)", [(expand(name).encode(), expand(path or name).encode())])]


def _log_fields(key: str, value: str, expand: _Expand) -> list[Property]:
    return [(key, "aay", [list(expand(word).encode()) for word in words(value)])]


def _exit_statuses(key: str, value: str, expand: _Expand) -> list[Property]:
    del expand
    return [(key, "(aiai)", unit_values.exit_statuses(value))]


def _filter(key: str, value: str, expand: _Expand) -> list[Property]:
    """Names that are allowed or, behind `~`, denied."""
    del expand
    names = value.removeprefix("~")
    if names == "none":
        raise BackendError("`none` cannot be set on a transient unit", _WITHOUT)
    return [(key, "(bas)", (names == value, [name.encode() for name in names.split()]))]


def _bind(key: str, value: str, expand: _Expand) -> list[Property]:
    binds = []
    for word in words(value, escapes=False):
        source, _, rest = word.removeprefix("-").partition(":")
        target, _, options = rest.partition(":")
        # 16384 is MS_REC, mount(2).
        recursive = 0 if options == "norbind" else 16384
        paths = (expand(source).encode(), expand(target or source).encode())
        binds.append((*paths, word.startswith("-"), recursive))
    return [(key, "a(ssbt)", binds)]


def _path_and_options(key: str, value: str, expand: _Expand) -> list[Property]:
    pairs = [word.partition(":")[::2] for word in words(value, escapes=False)]
    return [(key, "a(ss)", [(expand(path).encode(), expand(options).encode()) for path, options in pairs])]


def _device(key: str, value: str, expand: _Expand) -> list[Property]:
    path, _, access = value.partition(" ")
    return [(key, "a(ss)", [(expand(path).encode(), access.strip().encode())] if value else [])]


def _addresses(key: str, value: str, expand: _Expand) -> list[Property]:
    """IP address prefixes, systemd.resource-control(5): family (2 or 10, of socket(2)), address, length."""
    del expand
    prefixes = []
    for word in value.split():
        for text in _ADDRESS_NAMES.get(word, (word,)):
            network = ipaddress.ip_network(text, strict=False)
            family = 2 if network.version == 4 else 10
            prefixes.append((family, list(network.network_address.packed), network.prefixlen))
    return [(key, "a(iayu)", prefixes)]


_ADDRESS_NAMES = {
    "any": ("0.0.0.0/0", "::/0"),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/64"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
}


def _calendar(key: str, value: str, expand: _Expand) -> list[Property]:
    return [("TimersCalendar", "a(ss)", [(key.encode(), expand(value).encode())] if value else [])]


def _monotonic(key: str, value: str, expand: _Expand) -> list[Property]:
    del expand
    return [("TimersMonotonic", "a(st)", [(key.encode(), unit_values.microseconds(value))] if value else [])]


def _nothing(key: str, value: str, expand: _Expand) -> list[Property]:
    del key, value, expand
    return []


def _all(names: str, rule: _Rule) -> dict[str, _Rule]:
    return dict.fromkeys(names.split(), rule)


_BOOLEAN = _typed("b", unit_values.boolean)
_INTEGER = _typed("i", int)
_COUNT = _typed("u", int)
_MODE = _typed("u", lambda value: int(value, 8))
_SPAN = _typed("t", unit_values.microseconds, _microseconds_key)
_LIMIT = _typed("t", unit_values.microseconds_or_never, _microseconds_key)
_SIGNAL = _typed("i", unit_values.signal_number)
_LEVEL = _typed("i", lambda value: int(unit_values.SYSLOG_LEVELS.get(value, value)))

_CAPABILITIES = {"CapabilityBoundingSet": unit_values.INFINITY, "AmbientCapabilities": 0}
"""What there is without a line, as bits."""

_SECTIONS: dict[str, dict[str, _Rule]] = {
    "Unit": {
        **_all("Description SourcePath CollectMode OnFailureJobMode OnSuccessJobMode", _text),
        **_all("FailureAction SuccessAction StartLimitAction RebootArgument", _text),
        **_all("Wants Requires Requisite BindsTo PartOf Upholds Conflicts Before After", _name_list),
        **_all("OnFailure OnSuccess PropagatesReloadTo ReloadPropagatedFrom PropagatesStopTo", _name_list),
        **_all("StopPropagatedFrom JoinsNamespaceOf Documentation", _name_list),
        **_all("RequiresMountsFor WantsMountsFor", _literal_word_list),
        **_all("DefaultDependencies IgnoreOnIsolate RefuseManualStart RefuseManualStop StopWhenUnneeded", _BOOLEAN),
        **_all("FailureActionExitStatus SuccessActionExitStatus", _INTEGER),
        **_all("StartLimitBurst", _COUNT),
        **_all("StartLimitIntervalSec", _SPAN),
    },
    "Service": {
        **_all("Type ExitType Restart NotifyAccess PIDFile BusName OOMPolicy KillMode Slice DevicePolicy", _text),
        **_all("User Group PAMName WorkingDirectory RootDirectory RootImage Personality SELinuxContext", _text),
        **_all("SyslogIdentifier LogNamespace KeyringMode UtmpIdentifier UtmpMode TTYPath StandardInput", _text),
        **_all("ProtectSystem ProtectHome ProtectProc ProcSubset RuntimeDirectoryPreserve", _text),
        **_all("NetworkNamespacePath IPCNamespacePath TimeoutStartFailureMode TimeoutStopFailureMode", _text),
        **_all("NoNewPrivileges PrivateDevices PrivateNetwork PrivateMounts PrivateIPC", _BOOLEAN),
        **_all("ProtectClock ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables", _BOOLEAN),
        **_all("RestrictRealtime RestrictSUIDSGID LockPersonality MemoryDenyWriteExecute DynamicUser", _BOOLEAN),
        **_all("RemoveIPC MountAPIVFS IgnoreSIGPIPE SyslogLevelPrefix SendSIGHUP SendSIGKILL", _BOOLEAN),
        **_all("CPUAccounting MemoryAccounting IOAccounting TasksAccounting IPAccounting Delegate", _BOOLEAN),
        **_all("RemainAfterExit CPUSchedulingResetOnFork RootDirectoryStartOnly NonBlocking GuessMainPID", _BOOLEAN),
        **_all("PrivateTmp PrivateUsers ProtectControlGroups", _boolean_or_more),
        **_all("Nice OOMScoreAdjust CPUSchedulingPriority IOSchedulingPriority", _INTEGER),
        **_all("LogRateLimitBurst RestartSteps", _COUNT),
        **_all("UMask RuntimeDirectoryMode StateDirectoryMode CacheDirectoryMode LogsDirectoryMode", _MODE),
        **_all("ConfigurationDirectoryMode", _MODE),
        **_all("RuntimeMaxSec RuntimeRandomizedExtraSec RestartSec RestartMaxDelaySec WatchdogSec", _SPAN),
        **_all("LogRateLimitIntervalSec CPUQuotaPeriodSec", _SPAN),
        **_all("TimeoutStartSec TimeoutStopSec TimeoutAbortSec", _LIMIT),
        **_all("TimeoutSec", _timeout),
        **_all("KillSignal FinalKillSignal RestartKillSignal WatchdogSignal", _SIGNAL),
        **_all("LogLevelMax SyslogLevel", _LEVEL),
        **_all("SuccessExitStatus RestartPreventExitStatus RestartForceExitStatus", _exit_statuses),
        **_all("CPUWeight StartupCPUWeight IOWeight StartupIOWeight", _typed("t", unit_values.weight)),
        **_all("MemoryMin MemoryLow MemoryHigh MemoryMax MemorySwapMax TasksMax", _share),
        **_all("CPUQuota", _cpu_quota),
        **_all("IOSchedulingClass", _typed("i", lambda value: int(unit_values.IO_CLASSES.get(value, value)))),
        **_all("CPUSchedulingPolicy", _typed("i", lambda value: int(unit_values.CPU_POLICIES.get(value, value)))),
        **_all("SystemCallErrorNumber", _typed("i", unit_values.error_number)),
        **_all("ExecStart ExecStartPre ExecStartPost ExecCondition ExecReload ExecStop ExecStopPost", _exec),
        **_all("Environment PassEnvironment UnsetEnvironment SystemCallArchitectures", _word_list),
        **_all("SupplementaryGroups", _name_list),
        **_all("ImportCredential RuntimeDirectory StateDirectory CacheDirectory LogsDirectory", _word_list),
        **_all("ConfigurationDirectory", _word_list),
        **_all("ReadWritePaths ReadOnlyPaths InaccessiblePaths ExecPaths NoExecPaths", _literal_word_list),
        **_all("EnvironmentFile", _environment_file),
        **_all("LoadCredential LoadCredentialEncrypted", _credential),
        **_all("LogExtraFields", _log_fields),
        **_all("SystemCallFilter SystemCallLog RestrictAddressFamilies RestrictFileSystems", _filter),
        **_all("RestrictNetworkInterfaces", _filter),
        **_all("RestrictNamespaces", _typed("t", unit_values.allowed_namespaces)),
        **_all("BindPaths BindReadOnlyPaths", _bind),
        **_all("TemporaryFileSystem", _path_and_options),
        **_all("DeviceAllow", _device),
        **_all("IPAddressAllow IPAddressDeny", _addresses),
    },
    "Timer": {
        **_all("OnCalendar", _calendar),
        **_all("OnActiveSec OnBootSec OnStartupSec OnUnitActiveSec OnUnitInactiveSec", _monotonic),
        **_all("AccuracySec RandomizedDelaySec RandomizedOffsetSec", _SPAN),
        **_all("Persistent WakeSystem RemainAfterElapse OnClockChange OnTimezoneChange FixedRandomDelay", _BOOLEAN),
        **_all("Unit", _nothing),
    },
}
