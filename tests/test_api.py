"""The model behind the service: altered in the registry, and changed under load."""

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
from mlops_fraud.schemas import Thresholds
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
