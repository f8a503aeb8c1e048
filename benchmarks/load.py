"""One service or two, on each store: how many decisions a second, what they cost each process, and how long each waits.

    make bench-load
    make bench-load ARGS="--seconds 5 --only redis"

First as many as wrk gets over 64 connections; then half of them in an open loop, where waiting is counted from when a
request was due. A decision's cost is the processor time of all that took part: services, PostgreSQL, Redis. That holds
on a machine with too few cores for all of them, whose decisions a second do not.
"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from over_http import wrk
from pauses import WARM_UP, Answered, drive
from pipeline import table
from world import API, World, free_port, prepare, register

from mlops_fraud.deployment.local import Server, running
from mlops_fraud.ledger import Ledger
from mlops_fraud.settings import project_root

sys.path.append(str(project_root() / "tests"))
from engines import Engine, postgres, redis

CONNECTIONS = 64
MOST = 12_000  # requests a second that there are bodies for
STORES = {"sqlite": "SQLite", "postgresql": "PostgreSQL, which gives the order", "redis": "PostgreSQL, Redis gives the order"}
TICKS = os.sysconf("SC_CLK_TCK")


class Result(NamedTuple):
    "What one arrangement came to."

    store: str
    services: int
    a_second: float
    service_us: float  # processor time a decision, microseconds
    store_us: float
    open_loop: Answered
    rate: float
    logged: bool  # every answer is in the log

    @property
    def row(self) -> list[str]:
        "Its line of the table."
        p50, p99, p999 = np.quantile(self.open_loop.latency, [0.5, 0.99, 0.999])
        well = self.logged and not (self.open_loop.status != 200).any()
        return [STORES[self.store], f"{self.services}", f"{self.a_second:,.0f}", f"{self.service_us:,.0f}", f"{self.store_us:,.0f}",
                f"{1e6 / self.service_us:,.0f}", f"{self.rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{p999:.2f}", "yes" if well else "no"]  # fmt: skip


def cpu_seconds(pids: list[int]) -> float:
    "Processor time of these processes and of all that they have started."
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split("\n")
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed if line)}
    total = 0.0
    for pid in parents:
        above = pid
        while above not in pids and above in parents:
            above = parents[above]
        if above in pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except FileNotFoundError:
                continue
            total += sum(map(int, fields[11:13])) / TICKS
    return total


@contextmanager
def services(world: World, log: str, order: str, n: int) -> Iterator[tuple[list[str], list[int]]]:
    "`n` services: their addresses and process ids."
    chosen = world.settings("unused.sqlite")
    own = {"MLFLOW_TRACKING_URI": chosen.tracking_uri, "LEDGER": log, "ORDER": order, "BESIDE": str(world.folder / "beside"),
           "HISTORY": chosen.history, "FOLLOW_SECONDS": "0", "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = ["env", *(f"{name}={value}" for name, value in own.items()), sys.executable, "-m", *API]
    ports = [free_port() for _ in range(n)]
    started = [Server(f"API{port}", [*command, "--port", str(port)], f"http://127.0.0.1:{port}", "/readyz") for port in ports]
    with running(started, world.folder / "logs", project_root()) as processes:
        yield [server.url for server in started], [processes[server.name].pid for server in started]


class Engines(NamedTuple):
    "PostgreSQL and Redis."

    log: Engine
    order: Engine


@contextmanager
def engines(world: World) -> Iterator[Engines]:
    "Both, with their data in the world's folder."
    world.folder.chmod(0o755)  # PostgreSQL's user reads its own folder below
    with postgres("fraud", "secret", "fraud") as log, redis(world.folder / "redis") as order:
        yield Engines(log, order)


def new_log(world: World, store: str, name: str, on: Engines | None) -> tuple[str, str]:
    "LEDGER and ORDER for a log that holds nothing yet."
    if on is None:
        return str(world.folder / f"{name}.sqlite"), ""
    address = ["-h", "127.0.0.1", "-p", str(on.log.port), "-U", "fraud"]
    subprocess.run(["createdb", *address, name], env={**os.environ, "PGPASSWORD": "secret"}, check=True)
    order = f"redis://127.0.0.1:{on.order.port}/0" if store == "redis" else ""
    return f"postgresql://fraud:secret@127.0.0.1:{on.log.port}/{name}", order


def measured(world: World, bodies: Path, store: str, n: int, seconds: float, on: Engines | None) -> Result:
    "Decisions a second and their cost, then waiting at half the rate."
    log, order = new_log(world, store, f"{store}_{n}", on)
    with services(world, log, order, n) as (urls, pids), ThreadPoolExecutor(n) as pool:

        def all_at_once(seconds: float, first: int) -> int:
            share = CONNECTIONS // n
            runs = [
                pool.submit(wrk, f"{url}/predict", bodies, share, seconds, first + i * int(MOST * seconds)) for i, url in enumerate(urls)
            ]
            return sum(int(run.result()["requests"] - run.result()["refused"]) for run in runs)

        all_at_once(2 * WARM_UP, 0)
        theirs = [engine.process.pid for engine in on or ()]
        before, at = (cpu_seconds(pids), cpu_seconds(theirs)), time.perf_counter()
        decided = all_at_once(seconds, int(MOST * 2 * WARM_UP) * n)
        took = time.perf_counter() - at
        after = cpu_seconds(pids), cpu_seconds(theirs)
        rate = decided / took / 2
        lines = bodies.read_bytes().splitlines()[-int(rate * (seconds + WARM_UP)) :]
        with ProcessPoolExecutor(n) as clients:  # one for each service
            runs = [clients.submit(drive, url, lines[i::n], rate / n, CONNECTIONS // n) for i, url in enumerate(urls)]
            answered = Answered(*(np.concatenate(each) for each in zip(*(run.result() for run in runs))))
    ledger = Ledger(Path(log) if store == "sqlite" else log, beside=world.folder)
    logged = len(ledger) >= decided + len(answered.status)
    ledger.close()
    print(f"{store}, {n}: {decided / took:,.0f} a second", file=sys.stderr, flush=True)
    service_us, store_us = (1e6 * (b - a) / decided for a, b in zip(before, after))
    return Result(store, n, decided / took, service_us, store_us, answered, rate, logged)


def main() -> None:
    "Measure what the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each run")
    parser.add_argument("--history", type=int, default=500_000, help="events before them")
    parser.add_argument("--trees", type=int, default=300, help="of the model that answers")
    parser.add_argument("--only", choices=STORES, action="append", help="a store; may be repeated")
    given = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the servers end, too
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        world = prepare(Path(folder), given.history, int(MOST * 2 * (given.seconds + 2 * WARM_UP)), given.trees)
        register(world)
        bodies = world.write_bodies()
        on = stack.enter_context(engines(world))
        results = [
            measured(world, bodies, store, n, given.seconds, None if store == "sqlite" else on)
            for store in given.only or STORES
            for n in ((1,) if store == "sqlite" else (1, 2))
        ]
    print(f"{os.cpu_count()} cores; Python {platform.python_version()}\n")
    heads = "store | services | decisions/s | service, us each | store, us each | a second and core of a service | open loop at | p50, ms | p99 | p99.9 | all answered and logged"
    print(table(heads, [result.row for result in results]))


if __name__ == "__main__":
    main()
