"""Several services on one log in PostgreSQL, with an order in Redis and without: what happens to them, and what never does."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from conftest import Project, serving
from engines import Engine, postgres, redis

from mlops_fraud.ledger import Ledger, verify_log
from mlops_fraud.schemas import COLUMNS
from mlops_fraud.state import State, stacked, to_event

pytestmark = pytest.mark.timeout(180)


class Stores(NamedTuple):
    "What the services share."

    log: Engine
    order: Engine
    folder: Path

    def settings(self, name: str, ordered: bool) -> dict[str, str]:
        "Of a service on a new database, or one that is there."
        address = ["-h", "127.0.0.1", "-p", str(self.log.port), "-U", "fraud"]
        subprocess.run(["createdb", *address, name], env={**os.environ, "PGPASSWORD": "secret"}, capture_output=True)
        number = int.from_bytes(name.encode()) % 15 + 1
        return {
            "LEDGER": self.url(name),
            "ORDER": f"redis://127.0.0.1:{self.order.port}/{number}" if ordered else "",
            "BESIDE": str(self.folder / name),
        }

    def url(self, name: str) -> str:
        return f"postgresql://fraud:secret@127.0.0.1:{self.log.port}/{name}"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    "PostgreSQL and Redis."
    folder = tmp_path_factory.mktemp("stores")
    with postgres(folder / "postgres", "fraud", "secret", "fraud") as log, redis(folder / "redis") as order:
        yield Stores(log, order, folder)


class Clients:
    "Several at once, each of whom sends its own transactions to one of the services, now this, now that."

    def __init__(self, project: Project, urls: list[str], n: int = 8):
        self.rows = list(project.events[:20_000].select(COLUMNS).iter_rows(named=True))
        self.step, self.urls, self.done = self.rows[-1]["step"], urls, threading.Event()
        self.acknowledged: dict[str, bytes] = {}
        self.refused: list[tuple[int, str | None]] = []
        self.pool = ThreadPoolExecutor(n)
        self.asking = [self.pool.submit(self._ask, i, n) for i in range(n)]

    def body(self, i: int) -> dict[str, object]:
        return {**self.rows[i], "step": self.step, "transaction_id": f"s-{i}"}

    def _ask(self, first: int, n: int) -> None:
        which = random.Random(first)
        with httpx.Client(timeout=30) as client:
            for i in range(first, len(self.rows), n):
                if self.done.is_set():
                    return
                try:
                    answer = client.post(f"{which.choice(self.urls)}/predict", json=self.body(i))
                except httpx.TransportError:
                    continue
                if answer.status_code == 200:
                    self.acknowledged[f"s-{i}"] = answer.content
                else:
                    self.refused.append((answer.status_code, answer.headers.get("retry-after")))
                    time.sleep(0.02)

    def until(self, true: Callable[[], bool]) -> None:
        "Go on until it is `true`."
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline and not any(each.done() for each in self.asking)
            time.sleep(0.01)

    def more(self, n: int) -> None:
        "Until `n` more are acknowledged."
        wanted = len(self.acknowledged) + n
        self.until(lambda: len(self.acknowledged) >= wanted)

    def end(self) -> None:
        self.done.set()
        for each in self.asking:
            each.result()


def exact(log: str, clients: Clients, record: Callable[[str, int], None]) -> dict[str, bytes]:
    """The answers in the `log`, which is whole: all that were acknowledged are there, byte for byte and once,
    and each was decided on just the features that a single service has if it is asked in the log's order."""
    assert not verify_log(log).decisions - len(ledger := Ledger(log))
    entries = list(ledger.entries())
    found = {str(entry.request.transaction_id): entry.answer.encode() for entry in entries}
    assert {id: found.get(id) for id in clients.acknowledged} == clients.acknowledged
    assert len(found) == len(entries)
    alone = State().fold_arrays(stacked([to_event(entry.request) for entry in entries]))
    np.testing.assert_array_equal(np.array([entry.features for entry in entries]), alone)
    ledger.close()
    for name, value in {"acknowledged": len(clients.acknowledged), "refused": len(clients.refused), "found": len(found)}.items():
        record(name, value)
    return found


@pytest.fixture
def services(
    project: Project, stores: Stores, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[bool], list[tuple[str, int]]]]:
    "Two services on a log of the test's own: their addresses and process ids."
    with ExitStack() as stack:

        def start(ordered: bool = True, n: int = 2) -> list[tuple[str, int]]:
            own = project.environment(**stores.settings(request.node.name.split("[")[0][-40:] + str(ordered).lower(), ordered))
            return [stack.enter_context(serving(own, tmp_path / f"logs{i}")) for i in range(n)]

        yield start


def log_of(stores: Stores, request: pytest.FixtureRequest, ordered: bool = True) -> str:
    return stores.url(request.node.name.split("[")[0][-40:] + str(ordered).lower())


@pytest.mark.parametrize("ordered", [True, False])
def test_two_decide_as_one_would(project: Project, stores: Stores, services, ordered: bool, request, record_property) -> None:
    urls = [url for url, _ in services(ordered)]
    clients = Clients(project, urls)
    clients.more(1_000)
    clients.end()
    body = json.dumps({**clients.body(0), "transaction_id": "both"}).encode()
    with ThreadPoolExecutor(8) as pool:  # one id, at both, at once
        ask = lambda i: httpx.post(f"{urls[i % 2]}/predict", content=body, headers={"content-type": "application/json"}, timeout=30).content  # noqa: E731
        answers = set(pool.map(ask, range(32)))
    assert len(answers) == 1
    other = httpx.post(f"{urls[0]}/predict", json={**clients.body(1), "transaction_id": "both"})
    assert (other.status_code, other.json()["title"]) == (422, "Id belongs to another transaction")
    clients.acknowledged["both"] = answers.pop()
    found = exact(log_of(stores, request, ordered), clients, record_property)
    assert found.keys() == clients.acknowledged.keys() and not clients.refused
    assert not [id for id, answer in found.items() if b"no order" in answer]
    told = {httpx.get(f"{url}/readyz").json()["events"] for url in urls}
    time.sleep(1.5)
    assert {httpx.get(f"{url}/readyz").json()["events"] for url in urls} == {len(found)}, told


@pytest.mark.parametrize("ordered", [True, False])
def test_one_is_killed(project: Project, stores: Stores, services, ordered: bool, request, record_property) -> None:
    (first, killed), (second, _) = services(ordered)
    clients = Clients(project, [first, second])
    clients.more(500)
    os.killpg(killed, signal.SIGKILL)
    clients.more(500)
    clients.end()
    exact(log_of(stores, request, ordered), clients, record_property)
    assert not clients.refused


@pytest.mark.parametrize("how", ["restarted", "stopped"])
def test_redis_begins_anew_or_is_slow(project: Project, stores: Stores, services, how: str, request, record_property) -> None:
    urls = [url for url, _ in services()]
    clients = Clients(project, urls)
    clients.more(300)
    if how == "restarted":
        stores.order.end()
        clients.more(200)
        stores.order.start()
    else:
        stores.order.process.send_signal(signal.SIGSTOP)
        clients.more(200)
        stores.order.process.send_signal(signal.SIGCONT)
    clients.more(100)
    time.sleep(7)
    before = set(clients.acknowledged)
    clients.more(200)
    clients.end()
    found = exact(log_of(stores, request), clients, record_property)
    marked = {id for id, answer in found.items() if b"no order: Redis is away" in answer}
    record_property("marked", len(marked))
    assert len(marked) >= 100 and len(marked & set(found) - before) < 50  # of those that waited
    assert {status for status, _ in clients.refused} <= {503}


def test_postgresql_is_restarted(project: Project, stores: Stores, services, request, record_property) -> None:
    urls = [url for url, _ in services()]
    clients = Clients(project, urls)
    clients.more(300)
    stores.log.end()
    clients.until(lambda: len(clients.refused) >= 20)
    stores.log.start()
    clients.more(300)
    clients.end()
    found = exact(log_of(stores, request), clients, record_property)
    assert set(clients.refused) == {(503, "1")}
    assert len(found) >= len(clients.acknowledged)
