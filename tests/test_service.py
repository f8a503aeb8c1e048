"""What a client may send, and what the service promises for it."""

import asyncio
import json
import os
import random
import resource
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import polars as pl
import pytest
import schemathesis
from conftest import Project, Serve, serving
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from mlops_fraud.labels import read_decisions
from mlops_fraud.ledger import Ledger, verify_log
from mlops_fraud.schemas import COLUMNS, TransactionRequest
from mlops_fraud.state import State, to_event

JSON = {"content-type": "application/json"}
GOOD = {"step": 1, "type": "TRANSFER", "amount": 181.0, "nameOrig": "C1", "nameDest": "C2"}


@pytest.fixture(scope="module")
def address(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    "A service that many tests may ask; the last two let its clock go forward."
    folder = tmp_path_factory.mktemp("service")
    with serving(project.environment(LEDGER=str(folder / "ledger.sqlite")), folder / "logs") as (url, _):
        yield url


BODIES = {
    "nothing": b"",
    "half": b'{"step": 1',
    "an array": b"[]",
    "a text": b'"text"',
    "null": b"null",
    "not UTF-8": b'{"step": 1, "type": "\xff\xfe"}',
    "a lone surrogate": json.dumps({**GOOD, "nameDest": "\ud800"}).encode(),
    "NaN": json.dumps({**GOOD, "amount": float("nan")}).encode(),
    "infinity": json.dumps({**GOOD, "amount": float("inf")}).encode(),
    "1e400": json.dumps(GOOD).encode().replace(b"181.0", b"1e400"),
    "10^400": json.dumps({**GOOD, "amount": 10**400}).encode(),
    "a step of 10^400": json.dumps({**GOOD, "step": 10**400}).encode(),
    "negative": json.dumps({**GOOD, "amount": -0.01}).encode(),
    "tenths of a cent": json.dumps({**GOOD, "amount": 0.001}).encode(),
    "text for a number": json.dumps({**GOOD, "amount": "181"}).encode(),
    "true for a number": json.dumps({**GOOD, "step": True}).encode(),
    "an unknown type": json.dumps({**GOOD, "type": "REFUND"}).encode(),
    "an unknown field": json.dumps({**GOOD, "currency": "EUR"}).encode(),
    "both spellings": json.dumps({**GOOD, "name_dest": "C3"}).encode(),
    "a long name": json.dumps({**GOOD, "nameDest": "C" * 65}).encode(),
    "a NUL in a name": json.dumps({**GOOD, "nameDest": "C\0"}).encode(),
    "a NUL in an id": json.dumps({**GOOD, "transaction_id": "\0"}).encode(),
    "half a megabyte": json.dumps({**GOOD, "nameDest": "C" * 500_000}).encode(),
    "nested deeply": b"[" * 100_000,
    "nested in a field": b'{"step": ' + b'{"a":' * 50_000,
}


@pytest.mark.parametrize("path", ["/predict", "/whatif", "/feedback", "/invocations"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_body_is_too_strange_for_a_clear_answer(address: str, body: bytes, path: str) -> None:
    answer = httpx.post(address + path, content=body, headers=JSON, timeout=30)
    assert answer.status_code in (400, 413, 422), answer.text[:200]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def mutated(chance: random.Random, body: bytes) -> bytes:
    "`body` with one to four bytes, or pieces, lost, doubled, changed or put in."
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(body) + 1)
        to = min(len(body), at + chance.choice([0, 1, 1, 8]))
        piece = chance.choice(
            [b"", body[at:to] * 2, bytes([chance.randrange(256)]), b"9" * 30, b"-", b"e", b"\\u0000", b'"', b"{", b"]", b"null"]
        )
        body = body[:at] + piece + body[to:]
    return body.replace(b"\n", b" ")


def test_no_mutation_of_a_body_breaks_an_answer(address: str, record_property: Callable[[str, int], None]) -> None:
    chance, whole = random.Random(11), json.dumps({"transaction_id": "m-1", **GOOD}).encode()
    lines = [line for line in (mutated(chance, whole) for _ in range(5_000)) if line.strip()]
    batch = httpx.post(f"{address}/predict/batch", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"}, timeout=60)
    alone = [httpx.post(f"{address}/whatif", content=line, headers=JSON) for line in lines[:500]]
    statuses = Counter(answer.get("status", 200) for answer in map(json.loads, batch.text.splitlines()))
    statuses.update(answer.status_code for answer in alone)
    assert statuses.total() == len(lines) + len(alone)
    assert statuses.keys() == {200, 400, 422}
    for status, n in statuses.items():
        record_property(f"answered {status}", n)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_content_type_is_refused_with_words(address: str, kind: str) -> None:
    answer = httpx.post(f"{address}/predict", content=json.dumps(GOOD), headers={"content-type": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    many = httpx.post(f"{address}/predict/batch", content=json.dumps([GOOD]), headers={"content-type": kind})
    assert (many.status_code, many.headers["content-type"]) == (415, "application/problem+json")


@pytest.mark.parametrize("id", ["a/b", "../live?minutes=5", "what?x=1&y=2", "100% sure", " padded ", "ü", "👍"])
def test_any_id_is_found_again(address: str, id: str) -> None:
    first = httpx.post(f"{address}/predict", json={**GOOD, "transaction_id": id})
    for path in ("decisions", "desk/transactions"):
        found = httpx.get(f"{address}/{path}/{quote(id, safe='')}").json()
        assert found.get("record", found)["answer"].items() >= first.json().items()


def test_what_if_refuses_what_could_not_be_counted(address: str) -> None:
    far = {**GOOD, "step": 100_000}
    assert [httpx.post(f"{address}/{path}", json=far).json()["title"] for path in ("predict", "whatif")] == ["Too far ahead"] * 2


def test_a_key_that_no_header_can_hold_is_refused(address: str) -> None:
    answer = httpx.post(f"{address}/predict", json=GOOD, headers={b"idempotency-key": "ü1".encode()})
    assert (answer.status_code, answer.json()["detail"].split(":")[0]) == (422, "idempotency-key = 'Ã¼1'")


def test_what_the_door_refuses_is_counted_too(address: str) -> None:
    def refused() -> float:
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith('mlops_fraud_refused_total{status="413"}'))

    before = refused()
    assert httpx.post(f"{address}/predict", content=b"x" * 1_200_000, headers=JSON).status_code == 413
    assert refused() == before + 1


def test_what_is_not_there_is_a_problem_too(address: str) -> None:
    for method, path, status in [("GET", "/nothing", 404), ("GET", "/predict", 405), ("GET", "/decisions/never", 404)]:
        answer = httpx.request(method, address + path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def n_events(address: str) -> int:
    return httpx.get(f"{address}/readyz").json()["events"]


def test_one_id_in_flight_many_times_is_decided_once(address: str) -> None:
    before = n_events(address)
    with ThreadPoolExecutor(16) as pool:
        asked = {**GOOD, "transaction_id": "in flight"}
        answers = list(pool.map(lambda _: httpx.post(f"{address}/predict", json=asked, timeout=30), range(64)))
    assert {a.status_code for a in answers} == {200}
    assert len({a.content for a in answers}) == 1
    assert n_events(address) == before + 1


def test_concurrent_transactions_are_all_counted(address: str) -> None:
    asked = {**GOOD, "nameDest": "C200"}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{address}/predict", json=asked, timeout=30), range(200)))
    last = httpx.post(f"{address}/whatif", params={"explain": "full"}, json=asked).json()
    assert {a.status_code for a in answers} == {200}
    assert last["explanation"]["values"]["recipient_count"] == 200


def test_balances_and_labels_are_accepted_and_change_nothing(project: Project, address: str) -> None:
    row = project.events.row(0, named=True)
    bare = {name: row[name] for name in COLUMNS}
    answers = [
        httpx.post(f"{address}/whatif", params={"explain": "full"}, json=body) for body in (row, bare, {**row, "oldbalanceOrg": "nonsense"})
    ]
    assert {a.status_code for a in answers} == {200}
    assert len({a.content for a in answers}) == 1


def test_a_cut_connection_harms_nobody(address: str) -> None:
    where = urlsplit(address)
    before = n_events(address)
    for path in ("/predict", "/predict/batch"):
        with socket.create_connection((where.hostname, where.port)) as half:
            half.sendall(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{{".encode())
    assert n_events(address) == before


def test_the_documentation_shows_an_example_that_works(address: str) -> None:
    schema = httpx.get(f"{address}/openapi.json").json()
    example = schema["components"]["schemas"]["TransactionRequest"]["examples"][0]
    assert httpx.post(f"{address}/predict", json=example).status_code == 200
    assert "swagger" in httpx.get(f"{address}/docs").text.lower()


def test_a_log_that_cannot_be_read_is_a_problem_too(project: Project, serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "torn.sqlite"
    with serve(project, LEDGER=str(log)) as (url, _):
        assert httpx.post(f"{url}/predict", json={**GOOD, "transaction_id": "u-1"}).status_code == 200
        with closing(sqlite3.connect(log)) as other:
            other.execute("ALTER TABLE decisions RENAME TO torn")
        for path in ("/decisions/u-1", "/desk/alerts", "/desk/transactions/u-1"):
            answer = httpx.get(url + path)
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json"), path
            assert "cannot be read" in answer.json()["detail"]


def test_the_documentation_says_which_routes_ask_for_a_key(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    assert document["components"]["securitySchemes"].keys() == {"X-API-Key", "Bearer"} and {} in document["security"]
    assert document["paths"]["/healthz"]["get"]["security"] == [] and "security" not in document["paths"]["/predict"]["post"]


def test_whatever_the_documentation_allows_is_answered_as_it_says(address: str, record_property: Callable[[str, int], None]) -> None:
    # JSON Schema cannot say that an amount has whole cents, or that an MLflow client sends one of three forms.
    documented, asked = schemathesis.openapi.from_url(f"{address}/openapi.json"), Counter[str]()

    def ask(case: schemathesis.Case) -> None:
        answer = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        assert answer.status_code < 500
        asked[case.operation.path] += 1

    for found in documented.get_all_operations():
        few = effort(max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        assert isinstance(found, Ok), found
        few(given(case=found.ok().as_strategy())(ask))()
    assert asked.keys() == httpx.get(f"{address}/openapi.json").json()["paths"].keys()
    record_property("asked", asked.total())


def test_a_batch_of_lines_is_answered_line_by_line_whatever_is_wrong_with_some(project: Project, serve: Serve) -> None:
    n = 2_000
    sent = [{"transaction_id": f"b-{i}", **row} for i, row in enumerate(project.events[:n].select(COLUMNS).iter_rows(named=True))]
    lines = [json.dumps(body) for body in sent]
    lines[100], lines[200] = "{", json.dumps({**sent[200], "amount": -1})

    def in_pieces() -> Iterator[bytes]:
        whole = "\n".join(lines).encode()
        yield from (whole[i : i + 777] for i in range(0, len(whole), 777))

    with serve(project) as (url, _):
        answers = httpx.post(
            f"{url}/predict/batch", content=in_pieces(), headers={"content-type": "application/x-ndjson"}, timeout=60
        ).text.splitlines()
        again = [httpx.post(f"{url}/predict", json=sent[i]).text for i in (0, 99, 101, n - 1)]
        array = httpx.post(f"{url}/predict/batch", json=[sent[0], {}, sent[1]]).json()
        assert httpx.get(f"{url}/readyz").json()["events"] == n - 2
    assert len(answers) == n
    assert [json.loads(answers[i])["status"] for i in (100, 200)] == [422, 422]
    assert again == [answers[i] for i in (0, 99, 101, n - 1)]
    assert [array[0], array[2], array[1]["status"]] == [json.loads(answers[0]), json.loads(answers[1]), 422]


def test_the_short_way_and_the_long_way_give_the_same_bytes(project: Project, serve: Serve, tmp_path: Path) -> None:
    chance = random.Random(7)
    rows = list(project.events[:400].select(COLUMNS).iter_rows(named=True))
    bodies = [json.dumps({"transaction_id": f"w-{i}", **row}).encode() for i, row in enumerate(rows)]
    for place in range(5, 400, 10):
        bodies[place] = chance.choice([*BODIES.values(), bodies[place - 5], bodies[place].replace(b'"w-', b'"w-0'), bodies[1]])

    def told(url: str, kind: str) -> list[tuple[int, bytes]]:
        with httpx.Client(base_url=url, timeout=30) as client:
            answers = [client.post("/predict", content=body, headers={"content-type": kind}) for body in bodies]
        return [(answer.status_code, answer.content) for answer in answers]

    with serve(project) as (short, _), serve(project, LEDGER=str(tmp_path / "long.sqlite")) as (long, _):
        one, other = told(short, "application/json"), told(long, "application/json; charset=utf-8")
    assert one == other
    assert {status for status, _ in one} >= {200, 422}


def test_every_acknowledged_decision_survives_a_kill_under_load(project: Project, serve: Serve, tmp_path: Path, record_property) -> None:
    rows = list(project.events[:10_000].select(COLUMNS).iter_rows(named=True))
    step = rows[-1]["step"]  # one hour: many connections keep no order
    acknowledged: dict[str, bytes] = {}

    def keep_asking(first: int) -> int:
        sent = 0
        with httpx.Client(base_url=url, timeout=30) as client:
            for i in range(first, len(rows), 12):
                try:
                    sent += 1
                    body = {**rows[i], "step": step, "transaction_id": f"k-{i}"}
                    acknowledged[f"k-{i}"] = client.post("/predict", json=body).raise_for_status().content
                except httpx.TransportError:
                    break
        return sent

    with serve(project) as (url, pid), ThreadPoolExecutor(13) as pool:
        asking = [pool.submit(keep_asking, i) for i in range(12)]
        while len(acknowledged) < 5_000:
            assert not all(each.done() for each in asking)
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)
        sent = sum(each.result() for each in asking)

    with (tmp_path / "ledger.sqlite-wal").open("ab") as torn:
        torn.write(b"the beginning of a record that the kill cut off" * 40)
    found = proven(project, serve, tmp_path / "ledger.sqlite", acknowledged, step)
    assert len(found) <= sent
    for name, value in {"sent": sent, "acknowledged": len(acknowledged), "found": len(found)}.items():
        record_property(name, value)


def proven(project: Project, serve: Serve, path: Path, acknowledged: dict[str, bytes], step: int) -> dict[str, bytes]:
    "The answers in the log at `path`: all that were `acknowledged` are among them, byte for byte, and a service that starts with it holds their fold."
    ledger = Ledger(path)
    found = {str(entry.request.transaction_id): entry.answer.encode() for entry in ledger.entries()}
    assert {id: found.get(id) for id in acknowledged} == acknowledged
    assert verify_log(path).decisions == len(found)
    with serve(project) as (url, _):
        assert httpx.get(f"{url}/readyz").json()["events"] == len(found)
        following = httpx.post(f"{url}/whatif", params={"explain": "full"}, json={**GOOD, "step": step}).json()["explanation"]
    state = State()
    for block in ledger.events():
        state.fold(block)
    expected = state.read(to_event(TransactionRequest.model_validate({**GOOD, "step": step})))
    values = [np.nan if value is None else value for value in following["values"].values()]
    np.testing.assert_array_equal(np.array(values, np.float32), expected)
    ledger.close()
    return found


def test_ten_times_too_much_is_refused_in_part_and_what_is_answered_is_kept(
    project: Project, tmp_path: Path, record_property: Callable[[str, int], None]
) -> None:
    rows = list(project.events[:6_000].select(COLUMNS).iter_rows(named=True))
    step, path = rows[-1]["step"], tmp_path / "ledger.sqlite"
    acknowledged: dict[str, bytes] = {}
    refused: list[tuple[str, str, str]] = []

    async def ask(port: int, first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i in range(first, 3_200, 800):
            body = json.dumps({**rows[i], "step": step, "transaction_id": f"o-{i}"}).encode()
            writer.write(
                b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            told = dict(header.split(": ", 1) for header in headers if header)
            answer = await reader.readexactly(int(told["content-length"]))
            if " 200 " in status:
                acknowledged[f"o-{i}"] = answer
            else:
                refused.append((status.split()[1], told["retry-after"], json.loads(answer)["title"]))
        writer.close()

    async def ask_all(url: str) -> None:
        await asyncio.gather(*(ask(urlsplit(url).port or 0, first) for first in range(800)))

    @contextmanager
    def serve(project: Project) -> Iterator[tuple[str, int]]:
        with serving(project.environment(LEDGER=str(path), TURN_SECONDS="0.02"), tmp_path / "logs") as started:
            yield started

    with serve(project) as (url, _):
        with ThreadPoolExecutor(1) as pool:  # this thread may have a loop already, of a browser's test
            pool.submit(lambda: asyncio.run(ask_all(url))).result()
        time.sleep(0.5)
        again = httpx.post(f"{url}/predict", json={**rows[3_200], "step": step, "transaction_id": "o-3200"})
        assert again.status_code == 200  # as soon as the others are gone
        acknowledged["o-3200"] = again.content
    assert len(acknowledged) + len(refused) == 3_201 and acknowledged and refused
    assert set(refused) == {("503", "1", "Too much at once")}
    found = proven(project, serve, path, acknowledged, step)
    assert found.keys() == acknowledged.keys()
    for name, value in {"acknowledged": len(acknowledged), "refused": len(refused), "found": len(found)}.items():
        record_property(name, value)


def test_the_clock_jumps_back_four_days(project: Project, serve: Serve, tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if not library:
        pytest.skip("faketime is not installed, and scripts/engines could not install it")
    told = tmp_path / "clock"
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(told),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    rows = list(project.events[:200].select(COLUMNS).iter_rows(named=True))
    step, acknowledged = rows[-1]["step"], dict[str, bytes]()
    told.write_text("+2d")
    with serve(project, **faked) as (url, _), httpx.Client(base_url=url, timeout=30) as client:
        for i, row in enumerate(rows):
            if i == 100:
                told.write_text("-2d")
            answer = client.post("/predict", json={**row, "step": step}).raise_for_status()
            acknowledged[answer.json()["transaction_id"]] = answer.content
        first, last = list(acknowledged)[0], list(acknowledged)[-1]
        for transaction_id in (first, last):
            label = {"transaction_id": transaction_id, "fraud": True, "by": "Ada"}
            assert client.post("/feedback", json=label).json()["feedback"][0]["fraud"] is True
    assert len(proven(project, serve, tmp_path / "ledger.sqlite", acknowledged, step)) == len(acknowledged) == 200
    ledger = Ledger(tmp_path / "ledger.sqlite")
    decided = read_decisions(ledger)
    ledger.close()
    at = decided["answered_at"].to_list()
    assert at[0][:10] > at[-1][:10]  # it did jump
    assert decided.filter(pl.col("fraud"))["transaction_id"].to_list() == [first, last]


def test_what_people_say_goes_into_no_log_that_was_moved_and_then_into_the_new_one(project: Project, serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "own/ledger.sqlite"
    label, by = {"transaction_id": "known", "fraud": True, "by": "Ada"}, {"transaction_ids": ["known"], "by": "Ada"}
    with serve(project, LEDGER=str(path)) as (url, _):

        def decide(id: str) -> int:
            return httpx.post(f"{url}/predict", json={**GOOD, "transaction_id": id}, timeout=30).status_code

        assert decide("known") == 200 and httpx.get(f"{url}/desk/alerts").is_success
        for part in ("", "-wal", "-shm"):
            path.with_name(path.name + part).rename(tmp_path / f"moved{part}")
        for route, said in (("feedback", label), ("desk/take", by), ("desk/conclude", {**by, "fraud": True})):
            assert httpx.post(f"{url}/{route}", json=said).status_code == 503
        deadline = time.monotonic() + 30
        while decide("new") != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert httpx.get(f"{url}/desk/alerts").is_success
        assert httpx.post(f"{url}/desk/take", json=by).json()["refused"] == {"known": "it was never decided"}
    moved = Ledger(tmp_path / "moved")
    assert (len(moved), moved.feedback("known")) == (1, [])
    moved.close()


def test_a_full_disk_refuses_and_loses_nothing(project: Project, serve: Serve, tmp_path: Path, record_property) -> None:
    rows = list(project.events[:20_000].select(COLUMNS).iter_rows(named=True))
    step, done = rows[-1]["step"], threading.Event()
    acknowledged: dict[str, bytes] = {}
    refused: list[int] = []

    def keep_asking(first: int) -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            for i in range(first, len(rows), 4):
                answer = client.post("/predict", json={**rows[i], "step": step, "transaction_id": f"d-{i}"})
                if answer.status_code == 200:
                    acknowledged[f"d-{i}"] = answer.content
                else:
                    refused.append(answer.status_code)
                    time.sleep(0.02)
                if done.is_set():
                    return

    def until(true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline and not any(each.done() for each in asking)
            time.sleep(0.01)

    with serve(project) as (url, pid), ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, i) for i in range(4)]
        until(lambda: len(acknowledged) >= 300)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))  # as if the disk had no more room
        until(lambda: len(refused) >= 20)
        before = len(acknowledged)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: len(acknowledged) >= before + 300)
        done.set()
        for each in asking:
            each.result()

    found = proven(project, serve, tmp_path / "ledger.sqlite", acknowledged, step)
    assert found.keys() == acknowledged.keys() and set(refused) == {503}
    for name, value in {"acknowledged": len(acknowledged), "refused": len(refused), "found": len(found)}.items():
        record_property(name, value)
