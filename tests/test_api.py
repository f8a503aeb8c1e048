"""The service as a payment system meets it on a bad day."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import httpx
import numpy as np
from conftest import Project, Serve

from mlops_fraud import registry
from mlops_fraud.model import Model
from mlops_fraud.schemas import COLUMNS, Thresholds
from mlops_fraud.settings import Settings


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


def own_registry(project: Project, folder: Path) -> Settings:
    "A copy of the project's registry, and the settings that lead to it."
    folder.mkdir()
    with sqlite3.connect(project.folder / "mlflow.db") as source, sqlite3.connect(folder / "mlflow.db") as copy:
        source.backup(copy)
    return project.settings.model_copy(update={"mlflow_tracking_uri": f"sqlite:///{folder}/mlflow.db"})


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
    where = own_registry(project, tmp_path / "registry")
    trees = next(project.folder.glob("mlartifacts/**/model.ubj"))
    whole = trees.read_bytes()
    try:
        trees.write_bytes(whole[:-100] + bytes(100))
        with serve(project, MLFLOW_TRACKING_URI=where.mlflow_tracking_uri) as (url, _):
            answer = httpx.get(f"{url}/readyz")
            assert httpx.get(f"{url}/healthz").status_code == 200
    finally:
        trees.write_bytes(whole)
    assert answer.status_code == 503
    assert "its description says" in answer.json()["detail"]


def test_the_champion_changes_under_load_and_no_transaction_is_lost(project: Project, serve: Serve, tmp_path: Path) -> None:
    where = own_registry(project, tmp_path / "registry")
    champion = registry.load(where).model
    other = Model(champion.booster, champion.description.calibration, Thresholds(review=0.3, block=0.9))
    registry.register(other, np.zeros((5, len(champion.names)), np.float32), {}, where)
    sent = count()

    def keep_asking(_: int) -> list[httpx.Response]:
        with httpx.Client(base_url=url, timeout=30) as client:
            return [client.post("/predict", json=transaction(next(sent))) for _ in iter(stop.is_set, True)]

    with serve(project, MLFLOW_TRACKING_URI=where.mlflow_tracking_uri, FOLLOW_SECONDS="0.05") as (url, _), ThreadPoolExecutor(12) as pool:
        stop = threading.Event()
        asking = [pool.submit(keep_asking, i) for i in range(12)]
        try:
            for version in ("2", "1") * 4:
                registry.promote(version, where)
                deadline = time.monotonic() + 30
                while httpx.get(f"{url}/readyz", timeout=30).json()["model"]["version"] != version:
                    assert time.monotonic() < deadline, f"version {version} does not answer"
        finally:
            stop.set()
        answers = [answer for answered in asking for answer in answered.result()]
        last = httpx.post(f"{url}/whatif", params={"explain": "full"}, json=transaction(10**6), timeout=30).json()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["model"]["version"] for answer in answers} == {"1", "2"}
    assert last["explanation"]["values"]["recipient_count"] == len(answers)


def test_the_documentation_shows_an_example_that_works(project: Project, serve: Serve) -> None:
    with serve(project) as (url, _):
        schema = httpx.get(f"{url}/openapi.json").json()
        example = schema["components"]["schemas"]["TransactionRequest"]["examples"][0]
        assert httpx.post(f"{url}/predict", json=example).status_code == 200
        assert "swagger" in httpx.get(f"{url}/docs").text.lower()
