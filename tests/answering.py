"""An engine that the test answers for, and a place of the engine's with one job."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sdcron.engine_socket import listening
from sdcron.job import Job, Source
from sdcron.job_text import text_of
from sdcron.local_jobs import LocalJob, write_local
from sdcron.place import Place, make_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RUN = "a" * 32


def place_with_job(root: Path) -> Place:
    """One with a job, `job`."""
    found = make_place(user=False, root=root, backend="local")
    job = Job("job", Source("/jobs/job.yaml"), command=("true",))
    write_local(found.paths, [LocalJob("job", "/jobs", "/jobs/job.yaml", 1, text_of(job, "/jobs"))])
    return found


@contextmanager
def engine(place: Place, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Answers in the engine's place, until it is asked no more; what it was asked."""
    asked: list[dict[str, Any]] = []
    over = threading.Event()
    with listening(place.paths.engine_dir) as listener:
        listener.settimeout(0.02)

        def serve() -> None:
            while not over.is_set():
                try:
                    connection = listener.accept()[0]
                except TimeoutError:
                    continue
                connection.settimeout(10)
                request = json.loads(connection.recv(65536))
                asked.append(request)
                connection.sendall(json.dumps(answer(request)).encode() + b"\n")
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            over.set()
            thread.join(15)
            assert not thread.is_alive()


def does(**answers: dict[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers by what is asked for."""
    return lambda request: answers.get(request["do"], {"done": True})
