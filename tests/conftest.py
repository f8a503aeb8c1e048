"""What several tests share: a trained model in a registry of its own, and a running service."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from playwright.sync_api import Browser, sync_playwright

from mlops_fraud import registry
from mlops_fraud.data.ingest import ingest
from mlops_fraud.data.simulator import simulated
from mlops_fraud.decisions import Costs
from mlops_fraud.deployment.local import Server, running
from mlops_fraud.preprocessing import preprocess, read_rows
from mlops_fraud.schemas import COLUMNS, TransactionRequest
from mlops_fraud.settings import Settings, project_root, read_settings, settings
from mlops_fraud.training.train import train

ROOT = project_root()
KAGGLE = ROOT / "tests/data/kaggle_head.csv"
LONGEST = ("test_shared.py", "test_service.py", "test_operations.py", "test_app.py", "test_book.py")
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


class Project(NamedTuple):
    "A folder with events, rows, state and a registered champion."

    folder: Path
    events: pl.DataFrame
    history: Path  # the events in a file
    rows: Path
    settings: Settings

    def environment(self, **changes: str) -> dict[str, str]:
        "The settings as environment variables, with `changes`."
        own = {"MLFLOW_TRACKING_URI": self.settings.tracking_uri, "LEDGER": str(self.folder / "ledger.sqlite"), "HISTORY": ""}
        return {**own, **changes}


def make_project(folder: Path, events: pl.DataFrame) -> Project:
    "Train a small model on `events` and make it the champion of a registry in `folder`."
    source = folder / "events.parquet"
    events.write_parquet(source)
    rows = folder / "rows.parquet"
    preprocess(source, rows, label_delay=0)
    validation = read_rows(rows, "validation")
    model = train(
        {"max_depth": 5}, read_rows(rows, "train"), validation, Costs(2_000.0, 20_000.0), max_trees=40, genuine_rows=50_000, seed=7
    )
    chosen = read_settings(mlflow_tracking_uri=f"sqlite:///{folder}/mlflow.db", ledger=str(folder / "ledger.sqlite"))
    registry.promote(registry.register(model, validation.x[:5], {}, chosen), chosen)
    return Project(folder, events, source, rows, chosen)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    "Simulated transactions and their champion."
    return make_project(tmp_path_factory.mktemp("simulated"), simulated(40_000, seed=7))


@pytest.fixture(scope="session")
def kaggle_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    "The first 10,000 real transactions and their champion."
    folder = tmp_path_factory.mktemp("kaggle")
    ingest(KAGGLE, folder / "ingested.parquet", folder / "refused.csv")
    return make_project(folder, pl.read_parquet(folder / "ingested.parquet"))


def free_port() -> int:
    "A port that nothing listens on."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(environment: dict[str, str], logs: Path) -> Iterator[tuple[str, int]]:
    "The API as a process of its own: its address and process id."
    with several(environment, logs, 1) as services:
        yield services[0]


@contextmanager
def several(environment: dict[str, str], logs: Path, n: int) -> Iterator[list[tuple[str, int]]]:
    "`n` such processes with the same settings."
    ports = [free_port() for _ in range(n)]
    command = [
        "env",
        *(f"{name}={value}" for name, value in environment.items()),
        sys.executable,
        "-m",
        "uvicorn",
        "mlops_fraud.deployment.api:app",
    ]
    servers = [
        Server(f"API{port}", [*command, "--port", str(port), "--log-level", "warning"], f"http://127.0.0.1:{port}", "/healthz")
        for port in ports
    ]
    with running(servers, logs, ROOT) as processes:
        yield [(server.url, processes[server.name].pid) for server in servers]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    "The Chromium that `make test` found; without one, scripts/browser says how to get it."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


Serve = Callable[..., AbstractContextManager[tuple[str, int]]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    "Start the API of a project with a log of its own: `with serve(project) as (url, pid)`."

    def start(project: Project, **changes: str) -> AbstractContextManager[tuple[str, int]]:
        changes = {"LEDGER": str(tmp_path / "ledger.sqlite"), **changes}
        return serving(project.environment(**changes), tmp_path / "logs")

    return start


def copy_tracked(folder: Path) -> Path:
    "The tracked files as they are now and the kernels that were compiled, in `folder`: no data, models or reports of a run."
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")[:-1]
    kernels = [str(path.relative_to(ROOT)) for path in (ROOT / "mlops_fraud").rglob("__pycache__/*.nb?")]
    for name in tracked + kernels:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    "`copy_tracked` under git."
    folder = copy_tracked(tmp_path / "clone")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=folder, check=True)
    subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-qm", "as it is"], cwd=folder, check=True)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "The longest files first, so that no core is left alone with one in the end."
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def quiet_mlflow() -> None:
    "No telemetry from tests."
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def run_with[Found](environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Coroutine[Any, Any, Found]]) -> Found:
    "What `ask` finds under the settings of an `environment`."
    with monkeypatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings.cache_clear()
        try:
            with ThreadPoolExecutor(1) as pool:  # in this thread a browser's loop may run
                return pool.submit(asyncio.run, ask()).result()
        finally:
            settings.cache_clear()


def some(project: Project, n: int) -> list[TransactionRequest]:
    "Transactions of one hour, with ids."
    rows = project.events[:n].select(COLUMNS).iter_rows(named=True)
    return [TransactionRequest(**{**row, "step": 1, "transaction_id": f"e-{i}"}) for i, row in enumerate(rows)]
