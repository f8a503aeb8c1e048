"""The service under wrk, beside others that answer the same transactions."""

import http.client
import importlib.util
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import polars as pl
from pipeline import table
from world import API, CLIENT_CORE, World, on_core, pinned, register, serving

from mlops_fraud.deployment.local import CannotRun
from mlops_fraud.state import State

HEADERS = {"content-type": "application/json"}  # of every request; a key would stand here
CONNECTIONS = (1, 16, 64)
OTHERS = 16  # connections to those beside
WARM_UP = 1  # second
BATCH, N_BATCHES = 100_000, 5  # transactions at most of a request to /predict/batch, and such requests
GOALS = {16: 4_500, 64: 6_000}  # requests a second, by connections
BATCH_GOAL = 25_000  # transactions a second
MOST = 20_000  # requests a second that there are bodies for


class Load(NamedTuple):
    "What wrk saw of a server, and what its log holds afterwards."

    server: str
    connections: int
    requests: int
    seconds: float
    p50: float  # milliseconds
    p99: float
    refused: int  # answers that are no 2xx
    broken: int  # sockets
    logged: int | None = None

    @property
    def complete(self) -> bool:
        "All is well: every answer a decision, every decision in the log; wrk does not count the last answer of a connection."
        known = self.logged is None or self.requests <= self.logged <= self.requests + self.connections
        return known and self.refused == self.broken == 0

    @property
    def row(self) -> list[str]:
        "Its line of the table."
        figures = [
            f"{self.requests / self.seconds:,.0f}",
            f"{self.p50:.2f}",
            f"{self.p99:.2f}",
            f"{self.refused + self.broken:,}",
            f"{self.requests:,}",
        ]
        ours = self.server.startswith("this service")
        goal = GOALS.get(self.connections, 0)
        reached = f"{f'{goal:,}: ' if goal else ''}{'yes' if self.complete and self.requests >= goal * self.seconds else 'no'}"
        return [self.server, f"{self.connections}", *figures, "-" if self.logged is None else f"{self.logged:,}", reached if ours else ""]


def n_bodies(seconds: float) -> int:
    "Transactions that are enough for no run to send one twice."
    return int((seconds + WARM_UP) * MOST) * len(CONNECTIONS)


def wrk(url: str, bodies: Path, connections: int, seconds: float, first: int = 0) -> dict[str, float]:
    "What `connections` get that send one line of `bodies` after the other, for so many `seconds`."
    headers = [part for name, value in HEADERS.items() for part in ("-H", f"{name}: {value}")]
    script = str(Path(__file__).with_name("post.lua"))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(round(seconds), 1)}s", *headers, "-s", script, url, "--", str(bodies), str(first)]
    done = subprocess.run([*pinned(CLIENT_CORE), *command], capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"wrk against {url} failed: {done.stderr.strip() or done.stdout.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def logged(ledger: Path) -> int:
    "Decisions in the log."
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
        return connection.execute("SELECT count(*) FROM decisions").fetchone()[0]


def measured(server: str, url: str, bodies: Path, connections: int, seconds: float, part: int = 0, ledger: Path | None = None) -> Load:
    "A warm-up, then a run over the `part`-th share of `bodies`."
    first = part * int((seconds + WARM_UP) * MOST)
    wrk(url, bodies, connections, WARM_UP, first)
    time.sleep(0.5)  # what was on its way is answered
    before = logged(ledger) if ledger else 0
    seen = wrk(url, bodies, connections, seconds, first + WARM_UP * MOST)
    time.sleep(0.5)
    print(f"{server}, {connections} connections: {seen['requests'] / seen['seconds']:,.0f} requests/s", flush=True, file=sys.stderr)
    figures = int(seen["requests"]), seen["seconds"], seen["p50"], seen["p99"], int(seen["refused"]), int(seen["broken"])
    return Load(server, connections, *figures, logged(ledger) - before if ledger else None)


# ---- the servers


def ours(world: World, bodies: Path, seconds: float) -> list[Load]:
    "This service at all numbers of connections."
    with serving(world, "ours", API) as url:
        ledger = world.folder / "ours.sqlite"
        return [measured("this service", f"{url}/predict", bodies, n, seconds, part, ledger) for part, n in enumerate(CONNECTIONS)]


def batches(world: World, bodies: Path) -> str:
    "Transactions a second by long POST /predict/batch, in words, of a service and a log of its own."
    lines = bodies.read_bytes().splitlines(keepends=True)
    size = min(BATCH, len(lines) // (N_BATCHES + 1))
    first, *requests = [lines[n * size : (n + 1) * size] for n in range(N_BATCHES + 1)]
    rates, missing = [], 0
    with serving(world, "batches", API) as url, on_core(CLIENT_CORE):
        taken(url, first[: size // 10])
        for sent in requests:
            began, answered = time.perf_counter(), taken(url, sent)
            rates.append(answered / (time.perf_counter() - began))
            missing += len(sent) - answered
    complete = f" ({missing:,} lines were not answered)" if missing else ""
    reached = "yes" if not missing and median(rates) >= BATCH_GOAL else "no"
    return (
        f"POST /predict/batch, {len(rates)} requests of {size:,} lines: {median(rates):,.0f} transactions/s, the median of "
        f"{', '.join(f'{rate:,.0f}' for rate in rates)}{complete}; goal {BATCH_GOAL:,}: {reached}."
    )


def taken(url: str, lines: list[bytes]) -> int:
    "The lines of the answer to one POST /predict/batch of these `lines`; the client reads while it sends."
    body, where, answered = b"".join(lines), urlsplit(url), 0
    headers = HEADERS | {"host": where.netloc, "content-type": "application/x-ndjson", "content-length": str(len(body))}
    head = "POST /predict/batch HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    with socket.create_connection((where.hostname, where.port)) as line, ThreadPoolExecutor(1) as sender:
        sender.submit(line.sendall, head.encode() + body)
        answer = http.client.HTTPResponse(line)
        answer.begin()
        while piece := answer.read(1 << 16):
            answered += piece.count(b"\n")
    return answered


def plain(world: World, bodies: Path, seconds: float) -> list[Load]:
    "The service as one would write it first."
    with serving(world, "plain", ["uvicorn", "plain_service:app", "--app-dir", "benchmarks", "--log-level", "warning"]) as url:
        return [
            measured("FastAPI with `pred_contribs`, no log", f"{url}/predict", bodies, n, seconds, part)
            for part, n in enumerate(CONNECTIONS)
        ]


def mlflow(world: World, bodies: Path, seconds: float) -> list[Load]:
    "MLflow's own scoring server with the same trees: the probability and nothing else, from features that are given."
    chosen, features = world.settings("mlflow.sqlite"), world.folder / "features.ndjson"
    rows = pl.DataFrame(State().fold(world.after.head(20_000)), schema=world.model.names).fill_nan(None)
    split = ({"dataframe_split": {"columns": rows.columns, "data": [list(row)]}} for row in rows.iter_rows())
    features.write_text("\n".join(map(json.dumps, split)) + "\n")
    command = ["mlflow", "models", "serve", "-m", f"models:/{chosen.model_name}/1", "--env-manager", "local"]
    with serving(world, "mlflow", command, "/ping") as url:
        return [measured("`mlflow models serve`, probability alone", f"{url}/invocations", features, OTHERS, seconds)]


def granian(world: World, bodies: Path, seconds: float) -> list[Load]:
    "This service under another server, where that is installed."
    if not importlib.util.find_spec("granian"):
        return []
    command = ["granian", "--interface", "asgi", "--workers", "1", "--log-level", "warning", "mlops_fraud.deployment.api:app"]
    with serving(world, "granian", command) as url:
        ledger = world.folder / "granian.sqlite"
        return [measured("this service under granian", f"{url}/predict", bodies, OTHERS, seconds, ledger=ledger)]


def attempt(name: str, run: Callable[[World, Path, float], list[Load]], *given: Any) -> list[list[str]]:
    "The lines of a server beside, or that it cannot be measured; the reason goes to the terminal."
    try:
        return [load.row for load in run(*given)]
    except CannotRun as reason:
        print(reason, file=sys.stderr, flush=True)
        return [[f"{name} could not be measured", *["-"] * 8]]


def report(folder: Path, seconds: float) -> str:
    "All servers, in Markdown."
    world = World(folder)
    register(world)
    bodies = world.write_bodies()
    batch, lines = batches(world, bodies), [load.row for load in ours(world, bodies, seconds)]
    for run in (granian, plain, mlflow):
        lines += attempt(run.__name__, run, world, bodies, seconds)
    header = "server | connections | requests/s | p50 ms | p99 ms | failed | answered | in the log | goal reached"
    told = f"{seconds:g} s each. Goal: no failure, every answer in the log (and at most one more a connection), so many requests a second."
    return "\n\n".join([told, table(header, lines), batch])
