"""Several services on one log in PostgreSQL, with an order in Redis and without: what happens to them, and what never does."""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from conftest import ROOT, Project, run_with, several, some
from engines import Engine, postgres, redis

from mlops_fraud.deployment.service import COOL, SharedService, _swap, take_over
from mlops_fraud.ledger import Entry, Ledger, LogFailed, verify_log
from mlops_fraud.order import Order, Placed
from mlops_fraud.schemas import COLUMNS, TransactionRequest
from mlops_fraud.scoring import Scorer
from mlops_fraud.settings import read_settings, settings
from mlops_fraud.state import State, to_events

AWAY, NO_LOG = b"no order: Redis is away", b"no log: what other services decide is unknown"
PATIENT = {"TURN_SECONDS": "30"}  # refuse nobody because this machine is busy
Record = Callable[[str, int], None]


class Stores(NamedTuple):
    "What the services share."

    log: Engine
    order: Engine

    def url(self, name: str) -> str:
        "The address of a database, which is made if it is not there."
        address = ["-h", "127.0.0.1", "-p", str(self.log.port), "-U", "fraud"]
        subprocess.run(["createdb", *address, name], env={**os.environ, "PGPASSWORD": "secret"}, capture_output=True)
        return f"postgresql://fraud:secret@127.0.0.1:{self.log.port}/{name}"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    "PostgreSQL and Redis."
    folder = tmp_path_factory.mktemp("stores")
    with postgres("fraud", "secret", "fraud") as log, redis(folder / "redis") as order:
        yield Stores(log, order)


class Clients:
    "Eight at once, each of whom sends its own transactions to one of the services, now this, now that, and none again that failed."

    def __init__(self, project: Project, urls: list[str]):
        self.rows = list(project.events[:30_000].select(COLUMNS).iter_rows(named=True))
        self.step, self.urls, self.done = self.rows[-1]["step"], urls, threading.Event()
        self.sent = 0
        self.acknowledged: dict[str, bytes] = {}
        self.refused: list[tuple[int, str | None]] = []
        self.pool = ThreadPoolExecutor(8)
        self.asking = [self.pool.submit(self._ask, i) for i in range(8)]

    def body(self, i: int) -> dict[str, object]:
        return {**self.rows[i], "step": self.step, "transaction_id": f"s-{i}"}

    def _ask(self, first: int) -> None:
        which = random.Random(first)
        with httpx.Client(timeout=30) as client:
            for i in range(first, len(self.rows), 8):
                if self.done.is_set():
                    return
                self.sent += 1
                try:
                    answer = client.post(f"{which.choice(self.urls)}/predict", json=self.body(i))
                except httpx.TransportError:
                    time.sleep(0.02)
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
            ended = [each.result() for each in self.asking if each.done()]
            assert not ended and time.monotonic() < deadline, (
                f"{self.sent} sent, {len(self.acknowledged)} acknowledged, {self.refused[-3:]}"
            )
            time.sleep(0.01)

    def more(self, n: int) -> None:
        "Until `n` more are acknowledged."
        wanted = len(self.acknowledged) + n
        self.until(lambda: len(self.acknowledged) >= wanted)

    def well(self) -> bool:
        "Whether the latest answers are not marked."
        return not any(mark in answer for answer in list(self.acknowledged.values())[-40:] for mark in (AWAY, NO_LOG))

    def ready(self) -> bool:
        "Whether each service could go on without the log."
        return all(httpx.get(f"{url}/readyz").is_success for url in self.urls)

    def end(self) -> None:
        self.done.set()
        for each in self.asking:
            each.result()


def exact(log: str, clients: Clients, record: Record) -> dict[str, bytes]:
    """The answers in the `log`, which is whole: all that were acknowledged are there, byte for byte and once,
    and each was decided on just the features that a single service has when it is asked in the log's order,
    unless it says that there was no log."""
    ledger = Ledger(log)
    entries = list(ledger.entries())
    found = {str(entry.request.transaction_id): entry.answer.encode() for entry in entries}
    assert verify_log(log).decisions == len(found) == len(entries)
    assert {id: found.get(id) for id in clients.acknowledged} == clients.acknowledged
    alone = State().fold_arrays(to_events([entry.request for entry in entries]))
    with_log = [NO_LOG not in entry.answer.encode() for entry in entries]
    np.testing.assert_array_equal(np.array([entry.features for entry in entries])[with_log], alone[with_log])
    ledger.close()
    counted = {"sent": clients.sent, "acknowledged": len(clients.acknowledged), "refused": len(clients.refused), "found": len(found)}
    for name, value in counted.items():
        record(name, value)
    return found


def all_know(urls: list[str], n: int) -> None:
    "Wait until each service has read from the log all `n` that the services decided: an idle one looks once a second."
    deadline = time.monotonic() + 60
    while (known := [httpx.get(f"{url}/readyz").json()["events"] for url in urls]) != [n] * len(urls):
        assert max(known) <= n and time.monotonic() < deadline, f"{known} of {n}"
        time.sleep(0.1)


def ask_both(urls: list[str], clients: Clients) -> None:
    "Send one transaction to both services, 32 times at once: there is one answer."
    said = json.dumps({**clients.body(0), "transaction_id": "both"}).encode()

    def ask(i: int) -> bytes:
        answer = httpx.post(f"{urls[i % 2]}/predict", content=said, headers={"content-type": "application/json"}, timeout=30)
        return answer.raise_for_status().content

    with ThreadPoolExecutor(8) as pool:
        (clients.acknowledged["both"],) = set(pool.map(ask, range(32)))


def test_the_desk_works_on_postgresql_as_on_a_file(stores: Stores, tmp_path: Path) -> None:
    cells = json.loads((ROOT / "nbs/55_casework.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    log, names = f"Ledger({stores.url('desk')!r}, beside=folder)", dict[str, object]()
    assert sum('Ledger(folder / "ledger.sqlite")' in cell for cell in code) == 1
    for cell in code:  # the chapter's own assertions
        if "EXPLAIN QUERY PLAN" not in cell:
            exec(cell.replace('Ledger(folder / "ledger.sqlite")', log), names)


def test_a_hard_day(project: Project, stores: Stores, tmp_path: Path, record_property: Record) -> None:
    log = stores.url("hard_day")
    own = {**PATIENT, "LEDGER": log, "ORDER": f"redis://127.0.0.1:{stores.order.port}/0", "BESIDE": str(tmp_path / "beside")}
    with several(project.environment(**own), tmp_path / "logs", 2) as services:
        urls = [url for url, _ in services]
        clients = Clients(project, urls)
        clients.more(500)
        ask_both(urls, clients)
        other = httpx.post(f"{urls[0]}/predict", json={**clients.body(1), "transaction_id": "both"})
        assert (other.status_code, other.json()["title"]) == (422, "Id belongs to another transaction")
        assert not clients.refused and not [answer for answer in list(clients.acknowledged.values()) if AWAY in answer]

        stores.order.end()  # Redis is away, and comes back empty
        clients.more(200)
        assert not clients.well()
        stores.order.start()
        clients.until(clients.well)

        stores.order.process.send_signal(signal.SIGSTOP)  # it is there, and does not answer
        clients.more(200)
        assert not clients.well()
        stores.order.process.send_signal(signal.SIGCONT)
        clients.until(clients.well)
        assert {status for status, _ in clients.refused} <= {503}

        before = len(clients.refused)
        stores.log.end()  # PostgreSQL is away: nobody is answered without a record
        clients.until(lambda: len(clients.refused) >= before + 20)
        stores.log.start()
        clients.more(200)

        before = len(clients.refused)
        os.killpg(services[1][1], signal.SIGKILL)  # one dies with what it has placed
        clients.more(500)
        assert len(clients.refused) == before
        clients.end()
        assert set(clients.refused) == {(503, "1")}

        found = exact(log, clients, record_property)
        record_property("marked", sum(AWAY in answer for answer in found.values()))
        all_know(urls[:1], len(found))


def test_without_an_order_the_log_says_who_is_first(project: Project, stores: Stores, tmp_path: Path, record_property: Record) -> None:
    log = stores.url("no_order")
    own = {**PATIENT, "LEDGER": log, "BESIDE": str(tmp_path / "beside")}
    with several(project.environment(**own), tmp_path / "logs", 2) as services:
        urls = [url for url, _ in services]
        clients = Clients(project, urls)
        clients.more(300)
        ask_both(urls, clients)
        os.killpg(services[1][1], signal.SIGKILL)
        clients.more(300)
        clients.end()
        assert not clients.refused
        exact(log, clients, record_property)


def test_a_kill_amid_many_requests_loses_no_answer(project: Project, stores: Stores, tmp_path: Path, record_property: Record) -> None:
    log = stores.url("killed")
    own = project.environment(**PATIENT, LEDGER=log, BESIDE=str(tmp_path / "beside"))
    with several(own, tmp_path / "logs", 1) as [(url, pid)]:
        clients = Clients(project, [url])
        clients.more(5_000)
        os.killpg(pid, signal.SIGKILL)
        clients.end()
    found = exact(log, clients, record_property)
    with several(own, tmp_path / "again", 1) as [(url, _)]:
        assert httpx.get(f"{url}/readyz").json()["events"] == len(found)
        for i in range(0, 5_000, 500):
            assert httpx.post(f"{url}/predict", json=clients.body(i)).content == clients.acknowledged[f"s-{i}"]


def test_a_new_machine_goes_on_from_a_past_that_was_kept_while_others_answer(
    project: Project, stores: Stores, tmp_path: Path, record_property: Record
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    own = project.environment(**PATIENT, LEDGER=stores.url("kept"), ORDER=f"redis://127.0.0.1:{stores.order.port}/5", BESIDE=str(old))
    with several(own, tmp_path / "logs", 1) as [(url, _)]:
        clients = Clients(project, [url])
        clients.more(200)
        done = subprocess.run(["mlops-fraud", "keep"], env={**os.environ, **own}, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        n_kept = int(re.findall(r"up to decision ([\d,]+)", done.stdout)[0].replace(",", ""))
        clients.more(200)
        new.mkdir()
        (kept,) = old.glob("shared-*.npz")
        shutil.copy(kept, new)
        with several({**own, "BESIDE": str(new)}, tmp_path / "more", 1) as [(other, _)]:
            clients.urls.append(other)
            clients.more(200)
            clients.end()
            found = exact(own["LEDGER"], clients, record_property)
            all_know(clients.urls, len(found))
    mlflow, log = own["MLFLOW_TRACKING_URI"], own["LEDGER"]
    scorer = Scorer.load(read_settings(mlflow_tracking_uri=mlflow, ledger=log, beside=str(new), history=""))
    assert (scorer.kept_to, scorer.logged_to) == (n_kept, len(found))
    assert 200 <= n_kept <= len(found) - 400
    scorer.ledger.close()


def test_with_a_spool_they_answer_while_the_log_is_away(project: Project, stores: Stores, tmp_path: Path, record_property: Record) -> None:
    log, beside = stores.url("spool"), tmp_path / "beside"
    own = {**PATIENT, "LEDGER": log, "ORDER": f"redis://127.0.0.1:{stores.order.port}/0", "BESIDE": str(beside), "SPOOL": "true"}
    with several(project.environment(**own), tmp_path / "logs", 2) as services:
        clients = Clients(project, [url for url, _ in services])
        for _ in range(3):
            clients.more(100)
            clients.until(clients.ready)
            stores.log.end()
            clients.more(100)
            stores.log.start()
            clients.until(lambda: not list(beside.glob("spool-*")))
            clients.until(clients.well)
        assert set(clients.refused) == {(503, "1")}  # who was being decided when it went: perhaps they are in the log
        clients.more(100)
        clients.until(clients.ready)
        stores.log.end()
        clients.more(500)
        assert NO_LOG in list(clients.acknowledged.values())[-1]
        assert len(list(beside.glob("spool-*.sqlite"))) == 2
        label = {"transaction_id": list(clients.acknowledged)[-1], "fraud": True, "by": "ana"}
        assert {httpx.post(f"{url}/feedback", json=label).status_code for url, _ in services} <= {503, 404}
        os.killpg(services[1][1], signal.SIGKILL)  # its file is left to the next start
        clients.more(300)
        stores.log.start()
        clients.until(clients.well)
        with several(project.environment(**own), tmp_path / "third", 1) as [(third, _)]:
            clients.urls.append(third)
            clients.until(lambda: not list(beside.glob("spool-*")))
            clients.more(300)
            clients.end()
            found = exact(log, clients, record_property)
            record_property("marked", sum(NO_LOG in answer for answer in found.values()))
            all_know([services[0][0], third], len(found))
        assert len(list(beside.glob("spooled-*.sqlite"))) == 8


class JustThen(SharedService):
    "A service that is asked for something just as its spool is about to end."

    late: asyncio.Task[Entry] | None = None
    last: TransactionRequest

    async def _in_thread(self, work: Callable[..., Any], *given: Any) -> Any:
        made = await super()._in_thread(work, *given)
        if work is take_over and self.late is None:
            self.late = asyncio.create_task(self.decided(self.last))
            await asyncio.sleep(0)  # it has asked, and nothing is decided yet
        return made


def test_who_asks_as_a_spool_ends_is_in_the_log(project: Project, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = stores.url("as_it_ends")
    first, second, last = (
        TransactionRequest(**{**row, "step": 1, "transaction_id": f"e-{i}"})
        for i, row in enumerate(project.events[:3].select(COLUMNS).iter_rows(named=True))
    )

    async def ask() -> list[Entry]:
        service = JustThen()
        service.last = last
        with_log = await service.decided(first)
        service._drop(sqlite3.OperationalError("the log is away"))
        without = await service.decided(second)
        await service._take_over()
        assert service.late and not service.spool
        return [with_log, without, await service.late]

    answered = run_with(project.environment(LEDGER=log, BESIDE=str(tmp_path), SPOOL="true"), monkeypatch, ask)
    ledger = Ledger(log)
    assert [(entry.request.transaction_id, entry.answer) for entry in ledger.entries()] == [
        (entry.request.transaction_id, entry.answer) for entry in answered
    ]
    ledger.close()


def test_a_spool_that_two_services_find_is_kept_as_it_was(
    project: Project, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> int:
        scorer = Scorer.load()
        spool = scorer.elsewhere(Ledger(tmp_path / "spool-left.sqlite", scorer.ledger.history))
        spool.decide_each(some(project, 5))
        spool.flush()
        spool.ledger.close()
        services, log = [SharedService(), SharedService()], Ledger(settings().log)
        for service in services:  # both have found it at their start
            await service._take_over_left(log)
        return len(log)

    found = run_with(project.environment(LEDGER=stores.url("found_twice"), BESIDE=str(tmp_path)), monkeypatch, ask)
    assert (found, verify_log(tmp_path / "spooled-left.sqlite").decisions, list(tmp_path.glob("spool-*"))) == (5, 5, [])


@pytest.mark.parametrize("unreadable", [b"no database" * 1_000, b""])
def test_a_spool_that_cannot_be_read_keeps_no_other_from_the_log(
    project: Project, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: bytes
) -> None:
    left = tmp_path / "spool-0.sqlite"
    left.write_bytes(unreadable)
    if not unreadable:
        other = sqlite3.connect(left)
        other.executescript("PRAGMA user_version = 3; CREATE TABLE decisions (x)")
        other.close()

    async def ask() -> tuple[Entry, Entry | None]:
        service = SharedService()
        first, second = some(project, 2)
        await service.decided(first)
        service._drop(sqlite3.OperationalError("away"))
        spooled = await service.decided(second)
        await service._take_over()
        assert not service.spool and left.exists()
        return spooled, Ledger(settings().log).find("e-1")

    log = stores.url(f"unreadable_{len(unreadable)}")
    spooled, found = run_with(project.environment(LEDGER=log, BESIDE=str(tmp_path), SPOOL="true"), monkeypatch, ask)
    assert found and found.answer == spooled.answer


def test_a_model_that_changes_while_a_spool_answers_takes_nothing_from_it(
    project: Project, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> list[Entry]:
        service = SharedService()
        first, *rest, last = some(project, 5)
        answered = [await service.decided(first)]
        successor = Scorer.load()  # it began to load before the log went away
        service._drop(sqlite3.OperationalError("away"))
        answered.append(await service.decided(rest[0]))
        await _swap(service, successor)
        answered += [await service.decided(tx) for tx in rest[1:]]
        await service._take_over()
        return [*answered, await service.decided(last)]

    log = stores.url("swapped")
    answered = run_with(project.environment(LEDGER=log, BESIDE=str(tmp_path), SPOOL="true"), monkeypatch, ask)
    ledger = Ledger(log)
    assert [entry.answer for entry in ledger.entries()] == [entry.answer for entry in answered]
    ledger.close()


class SlowOrder(Order):
    "An order whose answers are a while on their way."

    wait = 0.0

    def place(self, *given: Any) -> Placed:
        placed = super().place(*given)
        time.sleep(self.wait)
        return placed


def test_who_was_placed_while_all_began_anew_is_not_answered(
    project: Project, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(project.events[:100].select(COLUMNS).iter_rows(named=True))

    async def ask() -> tuple[tuple[Entry | BaseException, ...], list[Entry]]:
        order = SlowOrder(f"redis://127.0.0.1:{stores.order.port}/0", "anew")
        service = SharedService(order)
        requests = (TransactionRequest(**{**row, "step": 1}) for row in rows)  # without ids, which the log would be asked for
        await service.decided(next(requests))
        await asyncio.sleep(COOL)
        await service.decided(next(requests))  # this one opens the order
        assert service.epoch
        stores.log.end()
        first = asyncio.create_task(service.decided(next(requests)))
        while not first.done() and service.writing is None:
            await asyncio.sleep(0)
        order.wait = 1.0
        second = asyncio.create_task(service.decided(next(requests)))
        await asyncio.wait([first])
        later = [await service.decided(tx) for tx in requests]  # more than there are positions
        return await asyncio.gather(first, second, return_exceptions=True), later

    lost, later = run_with(project.environment(LEDGER=stores.url("anew"), BESIDE=str(tmp_path), SPOOL="true"), monkeypatch, ask)
    stores.log.start()
    assert [type(each) for each in lost] == [LogFailed, LogFailed]
    assert all(NO_LOG in each.answer.encode() for each in later)
