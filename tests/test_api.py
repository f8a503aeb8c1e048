"""The service as a payment system meets it on a bad day."""

import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from conftest import Project, Serve

from mlops_fraud.ledger import Ledger
from mlops_fraud.schemas import COLUMNS
from mlops_fraud.state import State


def transaction(number: int, **changes: object) -> dict:
    return {
        "transaction_id": f"t-{number}",
        "step": 1,
        "type": "TRANSFER",
        "amount": 181.0 + number,
        "nameOrig": "C1",
        "nameDest": "C2",
        **changes,
    }


def test_every_acknowledged_decision_survives_a_kill(project: Project, serve: Serve, tmp_path: Path) -> None:
    acknowledged = []
    with serve(project) as (url, pid), httpx.Client(base_url=url) as client:
        for number in range(120):
            acknowledged.append(client.post("/predict", json=transaction(number)).content)
        os.killpg(pid, signal.SIGKILL)
    with serve(project) as (url, _), httpx.Client(base_url=url) as client:
        assert client.get("/readyz").json()["events"] == 120
        again = [client.post("/predict", json=transaction(number)).content for number in range(120)]
        following = client.post("/predict", params={"explain": "full"}, json=transaction(120)).json()
    assert again == acknowledged

    state = State()
    logged = list(Ledger(tmp_path / "ledger.sqlite").events())[0]
    expected = state.fold(logged)[120]
    values = np.array([np.nan if v is None else v for v in following["explanation"]["values"].values()], np.float32)
    np.testing.assert_array_equal(values, expected)


def test_one_id_in_flight_many_times_is_decided_once(project: Project, serve: Serve) -> None:
    with serve(project) as (url, _), ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{url}/predict", json=transaction(1), timeout=30), range(64)))
        assert httpx.get(f"{url}/readyz").json()["events"] == 1
    assert {a.status_code for a in answers} == {200}
    assert len({a.content for a in answers}) == 1


def test_concurrent_transactions_are_all_counted(project: Project, serve: Serve) -> None:
    with serve(project) as (url, _), ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: httpx.post(f"{url}/predict", json=transaction(n), timeout=30), range(200)))
        last = httpx.post(f"{url}/whatif", params={"explain": "full"}, json=transaction(1000), timeout=30).json()
    assert {a.status_code for a in answers} == {200}
    assert last["explanation"]["values"]["recipient_count"] == 200


def test_balances_and_labels_are_accepted_and_change_nothing(project: Project, serve: Serve) -> None:
    row = project.events.row(0, named=True)
    bare = {name: row[name] for name in COLUMNS}
    with serve(project) as (url, _):
        answers = [
            httpx.post(f"{url}/whatif", params={"explain": "full"}, json=body) for body in (row, bare, {**row, "oldbalanceOrg": "nonsense"})
        ]
    assert {a.status_code for a in answers} == {200}
    assert len({a.content for a in answers}) == 1


def test_a_model_that_was_altered_in_the_registry_does_not_answer(project: Project, serve: Serve, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    registry.mkdir()
    with sqlite3.connect(project.folder / "mlflow.db") as source, sqlite3.connect(registry / "mlflow.db") as copy:
        source.backup(copy)
    trees = next(project.folder.glob("mlartifacts/**/model.ubj"))
    whole = trees.read_bytes()
    try:
        trees.write_bytes(whole[:-100] + bytes(100))
        with serve(project, MLFLOW_TRACKING_URI=f"sqlite:///{registry}/mlflow.db") as (url, _):
            answer = httpx.get(f"{url}/readyz")
            assert httpx.get(f"{url}/healthz").status_code == 200
    finally:
        trees.write_bytes(whole)
    assert answer.status_code == 503
    assert "its description says" in answer.json()["detail"]


def test_the_documentation_shows_an_example_that_works(project: Project, serve: Serve) -> None:
    with serve(project) as (url, _):
        schema = httpx.get(f"{url}/openapi.json").json()
        example = schema["components"]["schemas"]["TransactionRequest"]["examples"][0]
        assert httpx.post(f"{url}/predict", json=example).status_code == 200
        assert "swagger" in httpx.get(f"{url}/docs").text.lower()
