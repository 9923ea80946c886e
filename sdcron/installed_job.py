"""One job as its units have it that are installed, and what the [X-Sdcron] section of a unit says. Reads no file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import count, repeat, takewhile
from typing import TYPE_CHECKING

from sdcron.drop_ins import is_drop_in
from sdcron.job import Output, Overlap
from sdcron.parameters import read_parameter
from sdcron.retry import retry_timer_name
from sdcron.span import parse_span
from sdcron.units import CompiledJob, Unit, boot_timer_name, is_sealed, service_name, timer_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdcron.job import Parameter

_SECTION = "\n[X-Sdcron]\n"
_LONGEST_COUNT = 20  # digits


@dataclass(frozen=True, slots=True)
class InstalledJob:
    """One job as its unit files have it.

    `units` maps file names to texts, `enabled` are the names that timers.target.wants links to, `script` is the text
    kept for a `script:` job.
    """

    name: str
    directory: str
    source: str
    units: Mapping[str, str]
    enabled: frozenset[str] = frozenset()
    script: str | None = None
    active: bool = True
    schedule: tuple[str, ...] = ()
    timezone: str | None = None
    spread: timedelta = timedelta(0)
    generated: bool = False
    """Whether it comes from a drop-in directory: its units are for the generator."""

    def as_compiled(self) -> CompiledJob:
        """What would install it as it is, with its timers."""
        boot = tuple(sorted(name for name, text in self.units.items() if _is_boot_timer(text)))
        return CompiledJob(
            self.name,
            self.directory,
            self.source,
            tuple(Unit(name, text) for name, text in sorted(self.units.items())),
            tuple(sorted(self.calendar_timers)) if self.active else (),
            boot if self.active else (),
            self.script,
            after=self.after,
            needs=self.needs,
            generated=self.generated,
        )

    def same_files(self, compiled: CompiledJob) -> bool:
        """True when every file and link is exactly what `compiled` would install."""
        return (
            self.script == compiled.script
            and self.generated == compiled.generated
            and self.enabled == frozenset(compiled.enable)
            and self.units == {unit.name: unit.text for unit in compiled.units}
        )

    # What the collector asks about one job at a time. A value that was edited to something else is the default.

    @property
    def output_keep(self) -> int:
        """How many bytes of each stream go on record."""
        written = self._of_service("OutputKeep")
        return int(written[0]) if written and _is_count(written[0]) else Output().keep

    @property
    def redact(self) -> tuple[str, ...]:
        """Regular expressions of what does not go on record."""
        return tuple(unescaped(text) for text in self._of_service("Redact"))

    @property
    def retry_on_exit(self) -> tuple[int, ...]:
        """The exit statuses that are retried; empty: every failure is."""
        written = self._of_service("RetryOnExit") or [""]
        return tuple(int(code) for code in written[0].split() if _is_count(code))

    @property
    def locks(self) -> tuple[str, ...]:
        """The names of the locks that a run holds."""
        return tuple(self._of_service("Locks")[0].split()) if self._of_service("Locks") else ()

    @property
    def resumable(self) -> bool:
        """Whether a run that a suspend has ended is started again."""
        return self._of_service("Resumable")[:1] == ["yes"]

    @property
    def after(self) -> tuple[str, ...]:
        """The jobs whose ends start it."""
        return tuple(" ".join(self._of_service("After")).split())

    @property
    def needs(self) -> tuple[str, ...]:
        """The jobs that must have succeeded since it did."""
        return tuple(" ".join(self._of_service("Needs")).split())

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What may differ from run to run."""
        found = (read_parameter(unescaped(text)) for text in self._of_service("Parameter"))
        return tuple(each for each in found if each is not None)

    @property
    def overlap(self) -> Overlap:
        """What becomes of a run that is due while another is on."""
        written = self._of_service("Overlap")[:1]
        return Overlap(written[0]) if written and written[0] in Overlap.__members__.values() else Overlap.SKIP

    @property
    def max_parallel(self) -> int:
        """How many runs may be on at the same time."""
        written = self._of_service("MaxParallel")[:1] if self.overlap is Overlap.ALLOW else []
        return int(written[0]) if written and _is_count(written[0]) else 1

    @property
    def digest(self) -> str | None:
        """The service's own SHA-256, None for one that is not as sdcron wrote it."""
        text = self.units.get(service_name(self.name), "")
        try:
            return self._of_service("Digest")[-1] if is_sealed(text) else None
        except UnicodeEncodeError:  # bytes that are not UTF-8: see _read
            return None

    @property
    def retry_delays(self) -> tuple[timedelta, ...]:
        """The wait before each retry, in order."""
        names = takewhile(self.units.__contains__, map(retry_timer_name, repeat(self.name), count(1)))
        return tuple(length_of(_directive(self.units[name], "OnActiveSec")) for name in names)

    @property
    def accuracy(self) -> timedelta:
        """How late its timers may be."""
        names = (timer_name(self.name), boot_timer_name(self.name), retry_timer_name(self.name, 1))
        written = [_directive(self.units[name], "AccuracySec") for name in names if name in self.units]
        return (length_of(written[0]) if written else timedelta(0)) or timedelta(seconds=1)

    @property
    def user(self) -> str | None:
        """Whose identity its runs have; None: the service manager's."""
        return self.directive("User") or None

    @property
    def time_limit(self) -> str | None:
        """How long a run may take, as systemd.time(7) writes it; None: as long as it likes."""
        return self.directive("TimeoutStartSec") or None

    @property
    def description(self) -> str:
        """What its file says of it, on one line."""
        text = self.directive("Description")
        return "" if text == f"sdcron job {self.name}" else text.removeprefix(f"{self.name}: ")

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Its units, sorted; what it adds to those of others is none."""
        return tuple(sorted(name for name in self.units if not is_drop_in(name)))

    @property
    def calendar_timers(self) -> tuple[str, ...]:
        """Those of its timers that wait for times of its schedule."""
        return tuple(name for name, text in self.units.items() if "\nOnCalendar=" in text)

    @property
    def persistent(self) -> bool:
        """Whether a time that fell into downtime is made good."""
        return _directive(self.units.get(timer_name(self.name), ""), "Persistent") == "yes"

    @property
    def boot(self) -> bool:
        """Whether it runs at boot."""
        return any(map(_is_boot_timer, self.units.values()))

    def directive(self, key: str) -> str:
        """What the service says, as the value of a directive that takes no list; empty if it does not say it."""
        return unescaped(_directive(self.units.get(service_name(self.name), ""), key))

    def _of_service(self, key: str) -> list[str]:
        """The values of a key in the [X-Sdcron] section of its service."""
        return ownership(self.units.get(service_name(self.name), "")).get(key, [])


def ownership(text: str) -> dict[str, list[str]]:
    """The values of each key in the [X-Sdcron] section of a unit; nothing for a unit without it, which is not ours."""
    _, found, section = text.rpartition(_SECTION)
    keys: dict[str, list[str]] = {}
    if found:
        # Not splitlines(), to which U+2028 and others end a line too.
        for line in section.split("\n"):
            key, _, value = line.partition("=")
            keys.setdefault(key, []).append(value)
    return keys


def _directive(text: str, key: str) -> str:
    """The value of a directive that stands there once; the section for sdcron's own notes is not looked at."""
    return text.partition(_SECTION)[0].partition(f"\n{key}=")[2].partition("\n")[0]


def _is_boot_timer(text: str) -> bool:
    return bool(_directive(text, "OnBootSec") or _directive(text, "OnStartupSec"))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < _LONGEST_COUNT


def length_of(text: str) -> timedelta:
    """A time as a unit has it; none for what sdcron does not write."""
    try:
        return parse_span(text)
    except (OverflowError, ValueError):  # edited by hand: no length that sdcron writes
        return timedelta(0)


def unescaped(value: str) -> str:
    """The inverse of escape(..., Place.VALUE)."""
    return value.rstrip(" ").replace("%%", "%")
