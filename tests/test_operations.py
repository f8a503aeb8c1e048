"""Running a model for long: labels, a challenger in the shadow, a change of champion, and what may break on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from conftest import Project, free_port, serving

from mlops_fraud import registry
from mlops_fraud.deployment.local import Server, running
from mlops_fraud.ledger import Ledger
from mlops_fraud.model import Model
from mlops_fraud.schemas import COLUMNS
from mlops_fraud.settings import Settings, project_root, read_settings
from mlops_fraud.shadow import Scores, duel, scores_path

pytestmark = pytest.mark.xdist_group("operations")


class Site:
    "A service of its own registry, its settings, and commands in them."

    def __init__(self, url: str, chosen: Settings, environment: dict[str, str], events: pl.DataFrame):
        self.url, self.chosen, self.environment, self.events = url, chosen, environment, events
        self.sent = 0

    def send(self, n: int) -> list[dict[str, Any]]:
        "The answers to the next `n` transactions."
        part = self.events[self.sent : self.sent + n].with_columns(transaction_id=pl.format("t{}", self.sent + pl.int_range(pl.len())))
        self.sent += n
        answer = httpx.post(f"{self.url}/predict/batch", json=part.select("transaction_id", *COLUMNS).to_dicts(), timeout=30)
        return answer.json()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        "`mlops-fraud ARGUMENTS`, started."
        command = [sys.executable, "-c", "from mlops_fraud.cli import main; main()", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=project_root(), env={**os.environ, **self.environment, "PYTHONUNBUFFERED": "1"}, **pipes)

    def run(self, *arguments: str) -> tuple[int, str]:
        "Its exit code and output."
        process = self.start(*arguments)
        said = process.communicate(timeout=120)[0]
        return process.returncode, said


@pytest.fixture(scope="module")
def site(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    "The simulated project with a registry of its own, in which a second version can be broken."
    folder = tmp_path_factory.mktemp("operations")
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "LEDGER": str(folder / "ledger.sqlite"),
        "HISTORY": "",
        "LABEL_MATURITY": "0",
    }
    chosen = read_settings(**{name.lower(): value for name, value in own.items()})
    first = registry.load(project.settings).model
    few = np.zeros((5, len(first.names)), np.float32)
    weaker = Model(first.booster[:10], first.description.calibration, first.description.thresholds, first.features, first.description.costs)
    for model in (first, weaker):
        registry.register(model, few, {}, chosen)
    registry.promote("1", chosen)
    environment = {**own, "FOLLOW_SECONDS": "0.2"}
    with serving(environment, folder / "logs") as (url, _):
        yield Site(url, chosen, {**environment, "API_PORT": url.rsplit(":", 1)[1]}, project.events)


def trees_of(version: str, chosen: Settings) -> Path:
    "The file of its trees."
    client = registry.connect(chosen)
    uri = client.get_model_version_download_uri(chosen.model_name, version)
    return Path(registry.mlflow.artifacts.download_artifacts(uri)) / "model.ubj"


def wait_until(true: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.1)


def test_a_file_of_labels_goes_through_the_service_and_says_what_it_did_not_know(site: Site, tmp_path: Path) -> None:
    site.send(20)
    (tmp_path / "labels.csv").write_text("transaction_id,fraud,by\nt0,1,bank\nt1,0,bank\nt0,0,ana\nnever,1,bank\n")
    code, said = site.run("label", str(tmp_path / "labels.csv"), "--quiet")
    assert (code, said.strip()) == (0, "3 labels given; 1 on transactions that were never decided, such as never")
    ledger = Ledger(site.chosen.path(site.chosen.ledger))
    assert [(label.fraud, label.by) for label in ledger.feedback("t0")] == [(True, "bank"), (False, "ana")]
    ledger.close()


def test_a_challenger_that_is_stopped_killed_or_broken_touches_no_answer(site: Site) -> None:
    registry.challenge("2", site.chosen)
    shadow = site.start("shadow")
    assert shadow.stdout and "version 2 follows the log" in shadow.stdout.readline()
    site.send(500)
    scores = Scores(scores_path(site.chosen))
    wait_until(lambda: scores.of("2").height >= 500, "500 scores")
    shadow.send_signal(signal.SIGSTOP)
    during = site.send(500)
    shadow.kill()
    shadow.communicate()
    after = site.send(500)
    assert {answer["model"]["version"] for answer in during + after} == {"1"}
    assert site.run("shadow", "--once")[0] == 0  # and goes on where it was killed
    assert scores.of("2").height == 1_500
    found = duel(site.chosen)
    assert (found.scored, found.behind) == (1_500, 0)
    trees = trees_of("2", site.chosen)
    kept = trees.read_bytes()
    trees.write_bytes(kept[:-10])
    code, said = site.run("shadow", "--once")
    assert code == 1 and "register it again" in said and "Traceback" not in said
    assert {answer["model"]["version"] for answer in site.send(50)} == {"1"}
    trees.write_bytes(kept)


def test_a_broken_successor_leaves_the_champion_answering_and_is_told(site: Site) -> None:
    trees = trees_of("2", site.chosen)
    kept = trees.read_bytes()

    def metric() -> str:
        return httpx.get(f"{site.url}/metrics").text

    trees.write_bytes(kept[:-10])
    registry.promote("2", site.chosen)
    wait_until(lambda: "mlops_fraud_successor_broken 1.0" in metric(), "told that the successor is broken")
    assert {answer["model"]["version"] for answer in site.send(50)} == {"1"}
    trees.write_bytes(kept)
    wait_until(lambda: httpx.get(f"{site.url}/model").json()["model"]["version"] == "2", "version 2 answers")
    assert "mlops_fraud_successor_broken 0.0" in metric()


def test_no_request_fails_while_the_champion_is_rolled_back(site: Site) -> None:
    failed, versions, end = [], set(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=site.url, timeout=30) as client:
            while not end.is_set():
                answer = client.post("/whatif", json={"step": 700, "type": "PAYMENT", "amount": 1.0, "nameOrig": "C1", "nameDest": "M1"})
                versions.add(answer.json()["model"]["version"]) if answer.status_code == 200 else failed.append(answer.text)

    asking = threading.Thread(target=ask)
    asking.start()
    code, said = site.run("rollback")
    wait_until(lambda: versions == {"1", "2"}, "both versions have answered")
    end.set()
    asking.join()
    assert (code, failed) == (0, []) and "version 1 answers as champion again" in said


def test_a_canary_answers_its_share_and_a_broken_one_nothing(site: Site, tmp_path: Path) -> None:
    own = {"LEDGER": str(tmp_path / "ledger.sqlite"), "CANARY_SHARE": "0.5"}
    registry.challenge("2", site.chosen)
    with serving({**site.environment, **own}, tmp_path / "logs") as (url, _):
        canary = Site(url, site.chosen, {}, site.events)
        first = canary.send(400)
        by_version = [answer["model"]["version"] for answer in first]
        assert 150 < by_version.count("2") < 250 and set(by_version) == {"1", "2"}
        assert httpx.get(f"{url}/model").json()["canary"]["version"] == "2"
        canary.sent = 0
        assert canary.send(400) == first

        def answering() -> str | None:
            return (httpx.get(f"{url}/model").json()["canary"] or {}).get("version")

        registry.challenge("1", site.chosen)  # the champion is nobody's canary
        wait_until(lambda: answering() is None, "no canary")
        trees = trees_of("2", site.chosen)
        kept = trees.read_bytes()
        trees.write_bytes(kept[:-10])
        registry.challenge("2", site.chosen)
        time.sleep(2)
        assert {answer["model"]["version"] for answer in canary.send(100)} == {"1"}
        trees.write_bytes(kept)
    assert "the challenger answers nothing: model.ubj" in "".join(log.read_text() for log in (tmp_path / "logs").iterdir())


def test_a_start_while_the_registry_is_away_serves_the_copy_until_it_is_back(site: Site, tmp_path: Path) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        site.chosen.tracking_uri,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    away = Server("MLflow", command, f"http://127.0.0.1:{port}", "/health")
    own = {"MLFLOW_TRACKING_URI": away.url, "LEDGER": str(tmp_path / "ledger.sqlite")}

    def answers(url: str, n: int) -> list[dict[str, Any]]:
        asking = Site(url, site.chosen, {}, site.events)
        asking.sent = n
        return asking.send(50)

    with running([away], tmp_path / "mlflow", project_root()), serving({**site.environment, **own}, tmp_path / "first") as (url, _):
        before = answers(url, 0)
    with serving({**site.environment, **own}, tmp_path / "second") as (url, _):
        during = answers(url, 50)
        with running([away], tmp_path / "mlflow", project_root()):
            wait_until(lambda: "no registry" not in str(httpx.get(f"{url}/desk/live").json()["degraded"]), "the registry is back")
            after = answers(url, 100)
    assert {answer["model"]["version"] for answer in before + during + after} == {"1"}
    assert not any("registry" in lack for answer in before + after for lack in answer["degraded"])
    assert all(any("no registry: version 1 is this machine's copy" in lack for lack in answer["degraded"]) for answer in during)


def test_the_backtest_of_the_log_gives_what_was_decided_to_the_bit(site: Site) -> None:
    site.send(200)
    code, said = site.run("backtest", "--model", "1", "--model", "2", "--from", "0")
    assert code == 0, said
    proofs = [line for line in said.splitlines() if line.startswith("Version ")]
    assert proofs and said.count("| version ") == 2
    for proof in proofs:
        numbers = [word.replace(",", "") for word in proof.split() if word.replace(",", "").isdigit()]
        assert numbers[1] == numbers[2], proof
