"""What carrying out a plan does, forwards and back, decided before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdcron.chain_units import DUE, after_handler_name, is_looking, token_changes
from sdcron.drop_ins import unit_of
from sdcron.overlap import queued_marks, queued_name, slot_of, tick_name
from sdcron.paths import wants_dir, wants_target
from sdcron.plan import Action

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from sdcron.paths import Paths
    from sdcron.plan import Change


@dataclass(slots=True)
class Step:
    """What one transition does: the same shape forwards and, made from what was there, backwards."""

    jobs: list[str] = field(default_factory=list)
    files: dict[str, str | None] = field(default_factory=dict)
    links: dict[str, str | None] = field(default_factory=dict)
    stop: list[str] = field(default_factory=list)
    cancel: list[str] = field(default_factory=list)
    """Services whose starts are given up as long as they wait, as for a network."""
    plain: list[str] = field(default_factory=list)
    """Timers among `stop` that go on afterwards and, not being persistent, would not catch up on a time in between."""
    forget: list[str] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)
    """Plain timers to start: as long as one is in memory, it starts with what fell due since its last start."""
    start: list[str] = field(default_factory=list)
    stamps: dict[str, str] = field(default_factory=dict)
    """Persistent timers to stamp before they start; the value says `set` or `remove`."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the steps are taken, and what systemd has there."""

    paths: Paths
    online: bool
    """Whether systemd runs there; if not, only files change (`--root`)."""
    loaded: frozenset[str] = frozenset()
    """The units of the changing jobs that are in memory."""
    active: Collection[str] = ()
    """Their timers that were active when the apply began."""
    boot: frozenset[str] = frozenset()
    """Those of them that still wait for their time after this boot: `spread` can make it hours."""


def forward(changes: Sequence[Change], scene: Scene) -> Step:
    """From what is installed to what the plan says."""
    step = Step()
    for change in changes:
        step.jobs.append(change.name)
        before, after = change.texts_before(), change.texts_after()
        old, new = _files(change, scene.paths)
        step.files.update({path: new.get(path) for path in sorted({*old, *new}) if old.get(path) != new.get(path)})
        if change.after is None or change.after.paused:
            # The series of its retries is over.
            step.files[str(scene.paths.runtime_dir / "retry" / change.name)] = None
        for path in _given_up(change, scene.paths):
            step.files[str(path)] = None
        if change.after is None:
            step.files[str(scene.paths.armed_boot_dir / change.name)] = None
            # One of the same name that is applied later is another job.
            step.files[str(scene.paths.paused_dir / change.name)] = None
        for name, text in token_changes(change.name, before, after).items():
            step.files[str(scene.paths.graph_dir / change.name / name)] = text
        enabled, enable = _links(change, scene.paths)
        step.links.update({link: enable.get(link) for link in sorted(enabled.keys() ^ enable.keys())})
        start = change.after.start if change.after else ()
        if change.action is not Action.START:
            stopped = _to_stop(change, scene)
            step.stop += stopped
            if change.after is None or not change.after.paused:
                step.start += [name for name in stopped if is_retry(name) and name in after and name in scene.active]
            step.plain += [name for name in stopped if name in start and _is_plain(before[name])]
            if change.after is None or change.after.paused or _gives_up_waiting(change):
                # What is about to ask for a run, and after that what would have it wait.
                asking = (after_handler_name(change.name), tick_name(change.name), queued_name(change.name))
                step.stop += [name for name in asking if name in before and name in scene.loaded]
                step.cancel += [name for name in before if slot_of(name)[0] and name in scene.loaded]
            # One that waits would begin with another job to look at.
            step.stop += [
                name
                for name in sorted(scene.loaded)
                if is_looking(name, change.name) and before.get(name) != after.get(name)
            ]
            # What is new may be in memory too: a job removed while it ran, and back now.
            step.forget += sorted({unit_of(name) for name in {*before, *after}} & scene.loaded)
        step.start += start
        step.anew += [name for name in start if name in scene.loaded and _is_plain(after[name])]
        for name in (*before, *after):
            if name.endswith(".timer"):
                _plan_stamp(step, change, name, scene)
    return step


def _plan_stamp(step: Step, change: Change, name: str, scene: Scene) -> None:
    before, after = change.texts_before().get(name), change.texts_after().get(name)
    if after is None or (before and _is_persistent(before) and not _is_persistent(after)):
        step.stamps[name] = "remove"
    elif not scene.online and not stamp_path(scene.paths, name).exists():
        # The machine has never run it, and shall not begin with a catch-up when it boots.
        return
    elif _is_persistent(after) and (before != after or _was_stopped(change, name, scene)):
        # It would catch up what fell due since.
        step.stamps[name] = "set"


def _was_stopped(change: Change, name: str, scene: Scene) -> bool:
    """Whether a timer did not wait for its times until now: stopped by somebody, or its job was paused."""
    if scene.online:
        return name not in scene.active
    return change.before is not None and name not in change.before.enabled


def backward(changes: Sequence[Change], scene: Scene) -> Step:
    """From wherever the way forward ended to what is installed now."""
    step = Step(jobs=[change.name for change in changes])
    for change in changes:
        before = change.texts_before()
        old, new = _files(change, scene.paths)
        step.files.update({path: old.get(path) for path in (*old, *new)})
        enabled, enable = _links(change, scene.paths)
        step.links.update({link: enabled.get(link) for link in (*enabled, *enable)})
        timers = [name for name in change.texts_after() if name.endswith(".timer")]
        step.stop += [name for name in timers if name not in before or not (is_retry(name) or name in scene.boot)]
        step.forget += sorted({unit_of(name) for name in (*before, *change.texts_after())} - {"script"})
        step.start += [name for name, text in before.items() if name in scene.active and not is_boot_timer(text)]
        step.anew += [name for name in before if name in step.start and _is_plain(before[name])]
        step.stamps.update({name: "remove" for name in timers if not _is_persistent(before.get(name, ""))})
        if change.before is None:
            step.files[str(scene.paths.armed_boot_dir / change.name)] = None
        if change.after is None or change.after.paused:
            retry = scene.paths.runtime_dir / "retry" / change.name
            step.files[str(retry)] = read_text(retry)
        for path in _given_up(change, scene.paths):
            step.files[str(path)] = read_text(path)
        for name in token_changes(change.name, before, change.texts_after()):
            token = scene.paths.graph_dir / change.name / name
            step.files[str(token)] = read_text(token)
        if change.after is None:
            mark = scene.paths.paused_dir / change.name
            step.files[str(mark)] = read_text(mark)
    return step


def _given_up(change: Change, paths: Paths) -> list[Path]:
    """What says that a run of the job waits, and that its chain asked for one, where none is to come of that."""
    due = paths.graph_dir / change.name / DUE
    if _gives_up_waiting(change):
        return [*queued_marks(paths.queued_dir, change.name), due]
    is_asked_for = after_handler_name(change.name) in change.texts_before()
    return [due] if is_asked_for and (change.after is None or change.after.paused) else []


def _gives_up_waiting(change: Change) -> bool:
    """Whether no run of a job waits any more that queues them: it is paused, gone, has other times, or queues no more.

    What is not enabled has no times.
    """
    before, after = change.texts_before(), change.texts_after()
    if queued_name(change.name) not in before:
        return False
    goes_on = change.after is not None and not change.after.paused and queued_name(change.name) in after
    return not goes_on or _times(before) != _times(after)


def _times(texts: Mapping[str, str]) -> list[str]:
    """What the units of a job say of its times, as they were written."""
    keys = ("Enabled=", "Schedule=", "Timezone=", "Spread=")
    return sorted({line for text in texts.values() for line in text.split("\n") if line.startswith(keys)})


def stamp_path(paths: Paths, timer: str) -> Path:
    """Where systemd keeps when a persistent timer elapsed last (systemd.timer(5), Persistent=)."""
    return paths.stamp_dir / f"stamp-{timer}"


def _files(change: Change, paths: Paths) -> tuple[dict[str, str], dict[str, str]]:
    """The files of a job, path -> text, before and after: it may have moved to or from the drop-in directories."""
    sides = ((change.before, change.texts_before()), (change.after, change.texts_after()))
    before, after = (
        {str(unit_path(paths, change.name, name, generated=job.generated)): text for name, text in texts.items()}
        if job is not None
        else {}
        for job, texts in sides
    )
    return before, after


def _links(change: Change, paths: Paths) -> tuple[dict[str, str], dict[str, str]]:
    """What enables its timers, link -> target, before and after."""
    sides = (
        (change.before, change.before.enabled if change.before else ()),
        (change.after, change.after.enable if change.after else ()),
    )
    before, after = (
        {str(wants_dir(unit_dir) / name): wants_target(unit_dir, name) for name in sorted(names)}
        for job, names in sides
        for unit_dir in [paths.unit_dir_of(job is not None and job.generated)]
    )
    return before, after


def unit_path(paths: Paths, job: str, name: str, *, generated: bool = False) -> Path:
    """The file of a unit, or of the job's script under the name `script`."""
    return paths.script_dir / job if name == "script" else paths.unit_dir_of(generated) / name


def read_text(path: Path) -> str | None:
    """What is there now; None for nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


def is_boot_timer(text: str) -> bool:
    """Whether a timer waits for a boot and nothing else."""
    return "\nOnCalendar=" not in text and "\nWantedBy=" in text


def _is_persistent(text: str) -> bool:
    return "\nPersistent=yes\n" in text


def _is_plain(text: str) -> bool:
    """Whether it is a calendar timer that does not catch up: systemd keeps no stamp for it."""
    return "\nPersistent=no\n" in text


def _to_stop(change: Change, scene: Scene) -> list[str]:
    """Timers that must not elapse while their files change; a waiting retry goes on as long as its delay stays.

    A shorter one may be over: systemd 257 would run the job when it reads it. A run that this boot still owes goes on
    waiting, too: its timer starts at the next boot only. Of a job that is paused nothing waits.
    """
    before, after = change.texts_before(), change.texts_after()
    owed = scene.boot.intersection(change.after.boot if change.after else ())
    names = [name for name in before if name.endswith(".timer") and name in scene.loaded and name not in owed]
    if change.after is not None and change.after.paused:
        return names
    return [name for name in names if not is_retry(name) or _delay(before[name]) != _delay(after.get(name, ""))]


def is_retry(name: str) -> bool:
    """Whether this is a timer that waits for a retry, or would."""
    return "@retry-" in name


def _delay(text: str) -> str:
    return text.partition("\nOnActiveSec=")[2].partition("\n")[0]
