"""The service at a given rate: latency counted from when a request was due, not from when it could be sent.

    make bench-pauses ARGS="--rate 1000 --seconds 60"

An open loop: payments do not wait for one another. So a pause of the service is felt by all that fall due in it, as
it would be by customers; a closed loop such as wrk's would send less and see one slow answer.
"""

import argparse
import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from over_http import HEADERS
from pipeline import table
from world import API, CLIENT_CORE, prepare, register, serving

WARM_UP = 1.0  # second, not counted
SPIN = 0.002  # seconds before a request is due, from which on the clock is watched: a sleep may end a millisecond late
N_PAUSES = 5
PICTURE = Path("data/live/pauses.png")


class Answered(NamedTuple):
    "Every request: when it was due and when its answer was there, seconds from the first, and the answer's status."

    due: np.ndarray
    done: np.ndarray
    status: np.ndarray

    @property
    def latency(self) -> np.ndarray:
        "Milliseconds, float64 (n,)."
        return 1e3 * (self.done - self.due)


class Pause(NamedTuple):
    "A time without any answer, while requests were due."

    at: float  # seconds from the first request
    milliseconds: float


def pauses(answered: Answered, n: int = N_PAUSES) -> list[Pause]:
    "The `n` longest, the longest first."
    order = np.argsort(answered.done)
    due, done = answered.due[order], answered.done[order]
    waiting_since = np.minimum.accumulate(due[::-1])[::-1]  # the earliest of those that are not answered yet
    start = np.maximum(np.r_[-np.inf, done[:-1]], waiting_since)
    took = 1e3 * (done - start)
    return [Pause(float(start[i]), float(took[i])) for i in np.argsort(-took)[:n]]


# ---- requests


def request(host: str, body: bytes) -> bytes:
    "POST /predict of `body`."
    head = [f"{name}: {value}" for name, value in {"host": host, "content-length": str(len(body)), **HEADERS}.items()]
    return "\r\n".join(["POST /predict HTTP/1.1", *head, "", ""]).encode() + body


async def answer(reader: asyncio.StreamReader) -> int:
    "The status of the next answer, whose body is read and thrown away."
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def until(moment: float) -> None:
    "Return at `moment` of the loop's clock, not a millisecond later."
    clock = asyncio.get_running_loop().time
    if (left := moment - clock() - SPIN) > 0:
        await asyncio.sleep(left)
    while clock() < moment:
        await asyncio.sleep(0)


async def load(url: str, bodies: list[bytes], rate: float, connections: int) -> Answered:
    "Send each of `bodies` when it is due, over the first of the connections that is free."
    host, port, n = str(urlsplit(url).hostname), urlsplit(url).port, len(bodies)
    clock, waiting = asyncio.get_running_loop().time, asyncio.Queue[int]()
    due, done, status = np.arange(n) / rate, np.zeros(n), np.zeros(n, int)
    start = clock() + 0.1

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while (i := await waiting.get()) >= 0:
            writer.write(request(host, bodies[i]))
            status[i] = await answer(reader)
            done[i] = clock() - start
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(connection())
        for i in range(n):
            await until(start + due[i])
            waiting.put_nowait(i)
        for _ in range(connections):
            waiting.put_nowait(-1)
    return Answered(due, done, status)


def drive(url: str, bodies: list[bytes], rate: float, connections: int) -> Answered:
    "`load` after a warm-up, from a core of its own where there are two."
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > CLIENT_CORE:
        os.sched_setaffinity(0, {CLIENT_CORE})
    first = int(rate * WARM_UP)
    asyncio.run(load(url, bodies[:first], rate, connections))
    gc.disable()  # no pause may be the client's
    return asyncio.run(load(url, bodies[first:], rate, connections))


# ---- what is said of it


def summary(answered: Answered, rate: float, connections: int) -> str:
    "Latencies and pauses, in Markdown."
    latency = answered.latency
    figures = [f"{value:.2f}" for value in (*np.quantile(latency, [0.5, 0.99, 0.999]), latency.max())]
    statuses = ", ".join(f"{n:,} times {status}" for status, n in sorted(Counter(answered.status.tolist()).items()))
    achieved = len(latency) / answered.done.max()
    longest = [[f"{pause.at:.2f}", f"{pause.milliseconds:.1f}"] for pause in pauses(answered)]
    return "\n\n".join([
        f"{len(latency):,} requests, {rate:,.0f} due a second over {connections} connections; ms from when each was due:",
        table("answers/s | p50 | p99 | p99.9 | max", [[f"{achieved:,.0f}", *figures]]),
        f"Answers: {statuses}. The longest times without any answer while one was due:",
        table("second | ms", longest),
    ])  # fmt: skip


def plot(answered: Answered, path: Path) -> None:
    "Latency over time, a dot a request, into a PNG file."
    figure, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
    axes.plot(answered.due, answered.latency, ".", ms=1.5, alpha=0.5, rasterized=True)
    axes.set(xlabel="second at which it was due", ylabel="ms until its answer", yscale="log", title=f"{len(answered.due):,} requests")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    "Measure what the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1_000, help="requests that fall due in a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=32, help="that are kept open")
    parser.add_argument("--history", type=int, default=500_000, help="events before them")
    parser.add_argument("--trees", type=int, default=300, help="of the model that answers")
    parser.add_argument("--picture", type=Path, default=PICTURE, help=f"latency over time; by default {PICTURE}")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the server ends, too
    with tempfile.TemporaryDirectory() as folder:
        world = prepare(Path(folder), given.history, int(given.rate * (given.seconds + WARM_UP)), given.trees)
        register(world)
        bodies = world.write_bodies().read_bytes().splitlines()
        with serving(world, "ours", API) as url:
            answered = drive(url, bodies, given.rate, given.connections)
    print(summary(answered, given.rate, given.connections))
    plot(answered, given.picture)
    print(f"\nLatency over time: {given.picture}")


if __name__ == "__main__":
    main()
