"""What a request feels while another model takes over, and while it is rolled back.

    python benchmarks/swap.py --rate 500 --seconds 60

An open loop at a given rate, as in pauses.py. After a third of the time the alias is moved to another version, after
two thirds it is rolled back; the service loads the other model beside the one that answers, and swaps.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import polars as pl
from pauses import Answered, load, pauses
from pipeline import table
from world import API, DEPTH, grown, model_of, prepare, register, rows_of, serving

from mlops_fraud import registry
from mlops_fraud.state import State

AROUND = 2.0  # seconds before and after a swap


class Swap(NamedTuple):
    "When the alias was moved, and when the other version answered; seconds from the first request."

    name: str
    moved: float
    answered: float


def moved(name: str, move: Callable[[], object], url: str, version: str, start: float) -> Swap:
    "Call `move`, and wait until `version` answers at `url`."
    at = time.perf_counter() - start
    move()
    with httpx.Client(base_url=url, timeout=30) as client:
        while client.get("/model").json()["model"]["version"] != version:
            time.sleep(0.02)
    return Swap(name, at, time.perf_counter() - start)


def figures(name: str, answered: Answered, mask: np.ndarray) -> list[str]:
    "A line of the table: latencies of the requests in `mask`."
    latency = answered.latency[mask]
    bad = int((answered.status[mask] != 200).sum())
    return [name, f"{mask.sum():,}", str(bad), *(f"{of:.2f}" for of in (*np.quantile(latency, [0.5, 0.99]), latency.max()))]


def main() -> None:
    "Measure what the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500, help="requests that fall due in a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--history", type=int, default=100_000, help="events before them")
    parser.add_argument("--trees", type=int, default=200, help="of the first model; the second has half as many")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the server ends, too
    with tempfile.TemporaryDirectory() as folder:
        world = prepare(Path(folder), given.history, int(given.rate * given.seconds), given.trees)
        first, chosen = register(world), world.settings("ledger.sqlite")
        history = pl.read_parquet(world.history)
        other = model_of(grown(rows_of(history), DEPTH, given.trees // 2))
        second = registry.register(other, State().fold(history.head(5)), {}, chosen)
        bodies, swaps = world.write_bodies().read_bytes().splitlines(), list[Swap]()
        with serving(world, "swapped", API, follow=0.2) as url:
            start = time.perf_counter() + 0.1

            def change() -> None:
                time.sleep(given.seconds / 3)
                swaps.append(moved("promote", lambda: registry.promote(second, chosen), url, second, start))
                time.sleep(max(2 * given.seconds / 3 - (time.perf_counter() - start), 0))
                swaps.append(moved("rollback", lambda: registry.rollback(chosen), url, first, start))

            changing = threading.Thread(target=change)
            changing.start()
            answered = asyncio.run(load(url, bodies, given.rate, 32))
            changing.join()
    print(report(answered, swaps, given.rate))


def report(answered: Answered, swaps: list[Swap], rate: float) -> str:
    "Latencies while the other model loads, around the moment of the swap, and otherwise."
    quiet, lines = np.ones(len(answered.due), bool), []
    for swap in swaps:
        loading = (answered.due >= swap.moved) & (answered.due < swap.answered)
        around = np.abs(answered.due - swap.answered) < AROUND
        quiet &= ~(loading | around)
        lines.append(figures(f"{swap.name}: from the alias's move to the swap, {swap.answered - swap.moved:.1f} s", answered, loading))
        lines.append(figures(f"{swap.name}: {AROUND:g} s before and after the swap", answered, around))
    lines.append(figures("otherwise", answered, quiet))
    longest = [[f"{pause.at:.2f}", f"{pause.milliseconds:.1f}"] for pause in pauses(answered)]
    head = f"{len(answered.due):,} requests, {rate:,.0f} due a second; ms from when each was due:"
    return "\n\n".join(
        [
            head,
            table("when | requests | failed | p50 | p99 | max", lines),
            "The longest times without any answer:",
            table("second | ms", longest),
        ]
    )


if __name__ == "__main__":
    main()
