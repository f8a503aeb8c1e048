"""What a start takes, from the process to the first 200 of /readyz, when a long history lies behind."""

import time
from pathlib import Path

import httpx
from pipeline import table
from world import API, prepare, register, serving

STARTS = 4
GOAL = 5.0  # seconds, from a snapshot


def started(folder: Path, n_history: int, trees: int) -> list[list[str]]:
    "A line for each start: the first folds the history and keeps a snapshot, the others begin with it."
    folder.mkdir()
    world = prepare(folder, n_history, 1_000, trees)
    register(world)
    lines = []
    for n in range(STARTS):
        began = time.perf_counter()
        with serving(world, "starts", API) as url:
            seconds = time.perf_counter() - began
            told = dict(line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics").text.splitlines() if not line.startswith("#"))
        core, megabytes = float(told["process_cpu_seconds_total"]), float(told["process_resident_memory_bytes"]) / 1e6
        reached = ("yes" if seconds <= GOAL else "no") if n else ""
        lines.append(["a snapshot" if n else "the events", f"{seconds:.1f}", f"{core:.1f}", f"{megabytes:,.0f}", reached])
    return lines


def report(folder: Path, n_history: int, trees: int) -> str:
    "All starts, in Markdown."
    header = "begins with | seconds to /readyz | of a core | MB afterwards | 5 s reached"
    return f"{n_history:,} events of history.\n\n{table(header, started(folder, n_history, trees))}"
