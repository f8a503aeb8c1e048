"""Half an hour at a steady rate: does a service's memory stay what it was, and its latency?

    make bench-soak ARGS="--store redis --minutes 30 --rate 200"

The same transactions come round and round, each time as new ones: after the first round no account and no amount is new,
so what still grows is not the past.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from load import STORES, engines, new_log, services
from pauses import WARM_UP, Answered, drive
from pipeline import table
from world import prepare, register

CONNECTIONS = 16
ROUND = 20_000  # transactions that come round
WINDOWS = 6  # parts of the time that are told apart
PICTURE = Path("data/live/soak.png")


def resident(pid: int) -> float:
    "MB of memory that a process holds, and all that `env` has made of it."
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def sampled(pids: list[int], running: Future[Answered], every: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    "While it is `running`: seconds (n,), and MB of each process (n, n_processes)."
    at, held, start = list[float](), list[list[float]](), time.monotonic()
    while not running.done():
        at.append(time.monotonic() - start)
        held.append([resident(pid) for pid in pids])
        time.sleep(every)
    return np.array(at), np.array(held)


def told(answered: Answered, at: np.ndarray, held: np.ndarray, minutes: float) -> str:
    "Memory and latency of each part of the time, in Markdown."
    rows = []
    for low, high in zip(*(np.linspace(0, 60 * minutes, WINDOWS + 1)[i:] for i in (0, 1))):
        inside, sample = (answered.due >= low) & (answered.due < high), (at >= low) & (at < high)
        p50, p99, p999 = np.quantile(answered.latency[inside], [0.5, 0.99, 0.999])
        refused = int((answered.status[inside] != 200).sum())
        rows.append([f"{low / 60:.0f} to {high / 60:.0f}", f"{held[sample].max(axis=0).sum():,.0f}", f"{inside.sum():,}", f"{refused:,}", f"{p50:.2f}", f"{p99:.2f}", f"{p999:.2f}"])  # fmt: skip
    return table("minutes | MB of all services | requests | refused | p50, ms | p99 | p99.9", rows)


def plot(at: np.ndarray, held: np.ndarray, path: Path) -> None:
    "Memory over time, into a PNG file."
    figure, axes = plt.subplots(figsize=(9, 3), layout="constrained")
    axes.plot(at / 60, held)
    axes.set(xlabel="minute", ylabel="MB of each service", ylim=(0, None))
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    "Measure what the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--services", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=200, help="requests that fall due in a second, of all services together")
    parser.add_argument("--history", type=int, default=100_000, help="events before them")
    parser.add_argument("--trees", type=int, default=300, help="of the model that answers")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers end, too
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        world = prepare(Path(folder), given.history, ROUND, given.trees)
        register(world)
        once = world.write_bodies().read_bytes().splitlines()
        lines = [once[i % ROUND] for i in range(int(given.rate * (60 * given.minutes + WARM_UP)))]
        log, order = new_log(world, given.store, "soak", stack.enter_context(engines(world)) if given.store != "sqlite" else None)
        urls, pids = stack.enter_context(services(world, log, order, given.services))
        n = given.services
        with ProcessPoolExecutor(n) as clients:
            runs = [clients.submit(drive, url, lines[i::n], given.rate / n, CONNECTIONS) for i, url in enumerate(urls)]
            at, held = sampled(pids, runs[0])
            answered = Answered(*(np.concatenate(each) for each in zip(*(run.result() for run in runs))))
    print(f"{STORES[given.store]}, {n} services, {given.rate:,.0f} requests a second for {given.minutes:g} minutes\n")
    print(told(answered, at, held, given.minutes))
    plot(at, held, given.picture)
    print(f"\nMemory over time: {given.picture}")


if __name__ == "__main__":
    main()
