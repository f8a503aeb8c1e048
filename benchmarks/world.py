"""What the benchmarks of the service share: a model, a history, transactions that come after it, and servers."""

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import xgboost as xgb

from mlops_fraud import registry
from mlops_fraud.data.simulator import simulated
from mlops_fraud.decisions import Costs
from mlops_fraud.deployment.local import Server, running
from mlops_fraud.model import Calibration, Model
from mlops_fraud.preprocessing import Rows
from mlops_fraud.registry import Version
from mlops_fraud.schemas import COLUMNS, Thresholds
from mlops_fraud.settings import Settings, project_root, read_settings
from mlops_fraud.state import State
from mlops_fraud.tables import forest
from mlops_fraud.training.fitting import training_sample

SEED = 7
GENUINE_ROWS = 50_000  # in a training sample
DEPTH = 6
SERVER_CORE, CLIENT_CORE = 0, 1


class World(NamedTuple):
    "A folder with all that a service needs."

    folder: Path

    @property
    def history(self) -> Path:
        "Events that the service begins with."
        return self.folder / "history.parquet"

    @property
    def after(self) -> pl.DataFrame:
        "Events that come after the history, in time order."
        return pl.read_parquet(self.folder / "after.parquet", columns=list(COLUMNS))

    @property
    def model(self) -> Model:
        "The model that answers."
        return Model.load(self.folder / "model")

    @property
    def version(self) -> Version:
        "The same, as if a registry had loaded it."
        return Version("benchmark", "1", "champion", self.model)

    def settings(self, ledger: str) -> Settings:
        "The project's settings, for this world and the log `ledger`."
        uri, log = f"sqlite:///{self.folder}/mlflow.db", str(self.folder / ledger)
        return read_settings(mlflow_tracking_uri=uri, ledger=log, history=str(self.history), follow_seconds=0)

    def write_bodies(self) -> Path:
        "A file with what comes after, a JSON object a line, all in the history's last hour so that no order of arrival is wrong."
        path, last = self.folder / "bodies.ndjson", pl.scan_parquet(self.history).select(pl.col("step").max()).collect().item()
        self.after.with_columns(step=pl.lit(last)).write_ndjson(path)
        return path


def rows_of(history: pl.DataFrame) -> Rows:
    "The rows that a model learns from, of a `history` that begins with nothing."
    return Rows(State().fold(history), *(history[name].to_numpy() for name in ("isFraud", "step", "type", "amount")))


def grown(rows: Rows, depth: int, trees: int) -> xgb.Booster:
    "So many `trees` of a `depth`, as full as the search for a model allows, none stopped early; it predicts in one thread, as the service does."
    fixed = {"objective": "binary:logistic", "tree_method": "hist", "seed": SEED}
    chosen = {"max_depth": depth, "learning_rate": 0.05, "min_child_weight": 0.1}
    booster = xgb.train({**fixed, **chosen}, training_sample(rows, GENUINE_ROWS, SEED), num_boost_round=trees)
    booster.set_param({"nthread": 1})
    return booster


def n_leaves(booster: xgb.Booster) -> int:
    "Leaves of all its trees."
    return int((forest(booster).left < 0).sum())


def model_of(booster: xgb.Booster) -> Model:
    "A model of these trees, with thresholds and costs that nobody chose."
    return Model(booster, Calibration(), Thresholds(review=0.1, block=0.5), costs=Costs(2_000.0, 20_000.0))


def prepare(folder: Path, n_history: int, n_after: int, trees: int) -> World:
    "Write to `folder` a simulated history, what comes after it, and a model that learned from the history."
    world, events = World(folder), simulated(n_history + n_after, SEED)
    history = events.head(n_history)
    history.write_parquet(world.history)
    events.tail(n_after).write_parquet(folder / "after.parquet")
    model_of(grown(rows_of(history), DEPTH, trees)).save(folder / "model")
    return world


def timed(run: Callable[[Any], object], each: Iterable[Any]) -> np.ndarray:
    "Microseconds that `run` takes on `each`."
    took, clock = [], time.perf_counter_ns
    for one in each:
        start = clock()
        run(one)
        took.append(clock() - start)
    return np.array(took) / 1e3


# ---- servers


def pinned(core: int) -> list[str]:
    "The beginning of a command that keeps to `core`; nothing where that cannot be had."
    return ["taskset", "-c", str(core)] if shutil.which("taskset") and core < (os.cpu_count() or 1) else []


@contextmanager
def on_core(core: int) -> Iterator[None]:
    "Keep this process to `core` meanwhile, where that can be had."
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if core in before:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def free_port() -> int:
    "A port that nothing listens on."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def register(world: World) -> str:
    "Make the world's model the champion of a registry in its folder. Returns its version."
    rows, chosen = State().fold(world.after.head(5)), world.settings("ledger.sqlite")
    version = registry.register(world.model, rows, {}, chosen)
    registry.promote(version, chosen)
    return version


@contextmanager
def serving(world: World, name: str, arguments: list[str], health: str = "/readyz", follow: float = 0.0) -> Iterator[str]:
    "The address of a Python module run with `arguments` and `--port`, on one core, with a log of its own; it ends on leaving. It looks at the alias every `follow` seconds."
    port, chosen = free_port(), world.settings(f"{name}.sqlite")
    environment = {"MLFLOW_TRACKING_URI": chosen.tracking_uri, "LEDGER": chosen.ledger, "HISTORY": chosen.history, "FOLLOW_SECONDS": str(follow),
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    settings = [f"{key}={value}" for key, value in environment.items()]
    command = ["env", *settings, *pinned(SERVER_CORE), sys.executable, "-m", *arguments, "--port", str(port)]
    server = Server(name, command, f"http://127.0.0.1:{port}", health)
    with running([server], world.folder / "logs", project_root()):
        yield server.url


API = ["uvicorn", "mlops_fraud.deployment.api:app", "--log-level", "warning", "--no-access-log"]
