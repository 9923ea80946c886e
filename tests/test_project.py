"""The project's own rules, as tests: linters, the direction of imports, what a quick command loads, the layout."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sdcron"

#: Every module, in the order of the design: each may import those before it, and none after it. A new module gets its
#: place here first.
ORDER = """
    sdk function_runner
    errors paths span files runs output clocks
    entries cron daylight machine calendars intervals oncalendar schedule
    job python_command parameters hosts job_forms job_text
    escape handlers unit_locks
    yaml_syntax yaml_nodes schema_check job_schema job_values job_draft passthrough job_locks job_parameters
    job_together job_keys jobfile template
    folder_times folders engine_support settings log_files status_log
    pauses findings sandbox retry overlap unit_conditions drop_ins chain_units units verify
    graph jobset jobs_d drawing
    elsewhere installed_job installed backends plan local_jobs links applied engine_socket messages
    backends.unit_syntax backends.unit_values backends.transient backends.transient_call backends.refusals
    backends.systemd backends.local
    record step apply apply_transient own_units
    store_tables store_rows store ledger resident cut_files journal conditions definition job_memory trigger memories
    asking waits open_run open_runs lock_skips chain_entries streams reports fold recorder
    sync_socket local_operations place operations desired dropped generate job_queries collector collect_service
    boot_chains boot local_queries job_answers run_queries log_lines job_log spool_lines spool_runs spool_files spool
    spool_log all_logs queries local_doctor doctor beginnings overlapping by_hand by_hand_starting running stopping
    backfill pausing editing agenda_memory agenda_slot agenda chains process_tree process_attributes process
    environment_file engine_locks engine_run processes engine_keep run_book engine engine_reports
    followed engine_signals engine_service engine_process
    render render_runs render_log render_progress
    cli.options cli.applying cli.asking cli.collecting cli.watching cli.running cli.writing cli __main__
""".split()

#: Third-party packages, and the only modules that may import them.
CONFINED = {
    "yaml": {"yaml_nodes"},
    "jsonschema": {"job_schema"},
    "pystemd": {"backends.systemd"},
    "systemd": {"journal"},
    "typer": {
        "cli",
        "cli.applying",
        "cli.asking",
        "cli.collecting",
        "cli.options",
        "cli.running",
        "cli.watching",
        "cli.writing",
    },
    "rich": {"render"},
    "croniter": set(),
}

#: What may lie at the top of the repository.
TOP_LEVEL = {
    ".ci", ".editorconfig", ".github", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md",
    "LICENSE", "Makefile", "README.md", "SECURITY.md", "constraints.txt", "debian", "packaging", "pyproject.toml",
    "sdcron", "tests", "units",
}  # fmt: skip

MODULE_LINES = 400
FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    """`backends/systemd.py` is `backends.systemd`, `backends/__init__.py` is `backends`, the package is empty."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a module imports, inside functions and for types only included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = name.removeprefix("sdcron.") in MODULES
                yield node.lineno, name if is_module else str(node.module)


def tracked_files() -> list[Path]:
    """The files that are, or are about to be, part of the repository."""
    # `sudo make test` reads a checkout that belongs to somebody else.
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=30).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_every_module_has_its_place_in_the_order_and_imports_only_those_before_it() -> None:
    problems = [f"sdcron/{name} has no place in ORDER" for name in MODULES if name and name not in ORDER]
    for name in (known for known in ORDER if known in MODULES):
        for line, imported in imports(MODULES[name]):
            target = imported.removeprefix("sdcron").removeprefix(".")
            if not imported.startswith("sdcron") or not target:
                continue
            if target not in ORDER or ORDER.index(target) >= ORDER.index(name):
                problems.append(f"{MODULES[name].relative_to(ROOT)}:{line}: {name} must not import {target}")
    assert problems == []


def test_third_party_packages_are_imported_only_where_the_design_says() -> None:
    strangers = []
    for name, path in MODULES.items():
        for line, imported in imports(path):
            package = imported.partition(".")[0]
            known = package == "sdcron" or package in sys.stdlib_module_names
            if not known and name not in CONFINED.get(package, set()):
                strangers.append(f"{path.relative_to(ROOT)}:{line}: {imported}")
    assert strangers == []


@pytest.mark.parametrize(
    "variables", [{}, {"_SDCRON_COMPLETE": "complete_bash", "COMP_WORDS": "sdcron va", "COMP_CWORD": "1"}]
)
def test_version_and_completion_load_nothing_slow(variables: dict[str, str]) -> None:
    script = (
        "import sys\nfrom sdcron.cli import main\nsys.argv = ['sdcron', '--version']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "slow = {'rich', 'jsonschema', 'croniter', 'pystemd', 'yaml', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {slow}' if slow else 0)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


def test_modules_and_functions_stay_small_enough_to_read() -> None:
    problems = []
    for path in MODULES.values():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MODULE_LINES:
            problems.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines, more than {MODULE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    problems.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines")
    assert problems == []


@pytest.mark.tools
def test_ruff_finds_nothing() -> None:
    for arguments in (["check", "--no-fix"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
        assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.tools
@pytest.mark.timeout(300)
def test_mypy_finds_nothing() -> None:
    command = [sys.executable, "-m", "mypy"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.tools
def test_the_top_of_the_repository_holds_only_what_was_agreed() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked_files()} <= TOP_LEVEL


@pytest.mark.tools
def test_no_file_names_the_host_of_a_package_registry() -> None:
    host = re.compile(r"https?://[a-z0-9.-]*(?:pypi|pythonhosted|npmjs|debian\.org|mirror)[a-z0-9.-]*", re.IGNORECASE)
    found = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in host.finditer(text)]
    assert found == []


@pytest.mark.tools
def test_every_finding_that_is_ignored_is_named_and_says_why() -> None:
    ignored = re.compile(r"#\s*(?:type:\s*ignore|noqa)\b(.*)")
    named = re.compile(r"(?:\[[a-z-]+\]  # |: [A-Z]+\d+ - )\w.+")
    found = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="replace") if path.suffix == ".py" else ""
        found += [f"{path.relative_to(ROOT)}: {rest}" for rest in ignored.findall(text) if not named.fullmatch(rest)]
    assert found == []
