"""A real Airflow on SQLite runs the retraining to success, with one task killed on the way.

make test-airflow           # makes .airflow, if it is not there; takes some minutes
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import polars as pl  # noqa: E402
import yaml  # noqa: E402
from conftest import copy_tracked  # noqa: E402
from operations import decided, label, learned, settings_in  # noqa: E402

from mlops_fraud import registry  # noqa: E402
from mlops_fraud.data.simulator import PAYSIM, simulated_days  # noqa: E402
from mlops_fraud.scoring import Scorer  # noqa: E402

AIRFLOW = Path(os.environ.get("AIRFLOW_BIN", ROOT / ".airflow/bin"))
PATIENCE = 1_800  # seconds until the DAG must have succeeded; Airflow first makes the run that fell due before it started, and ours then finds its work done


@pytest.mark.timeout(PATIENCE + 600)
def test_the_retraining_succeeds_though_a_task_is_killed(tmp_path: Path) -> None:
    project = copy_tracked(tmp_path / "project")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["retraining"] |= {"min_frauds": 5, "shadow_hours": 0, "n_trials": 1}
    params["promotion"] |= {"min_frauds": 10_000}  # compare nothing: between models so small, chance would decide
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    live = project / "data/live"
    live.mkdir(parents=True)
    chosen = settings_in(live, rules="")
    events = simulated_days(600 * 60, 60, 7, {0: PAYSIM}, share=0.005)
    history = events.filter(pl.col("step") < 24 * 40)
    history.write_parquet(live / "history.parquet")
    learned(history, live, chosen, max_trees=20)
    scorer = Scorer.load(chosen)
    for _, day in decided(scorer, events.filter(pl.col("step") >= 24 * 40)):
        label(scorer.ledger, day)
    scorer.ledger.close()

    own = {"MLFLOW_TRACKING_URI": chosen.tracking_uri, "LEDGER": chosen.ledger, "HISTORY": chosen.history, "RULES": "",
           "AIRFLOW_HOME": str(tmp_path / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(project / "airflow/dags"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
           "AIRFLOW__API__PORT": "22080", "AIRFLOW__API__BASE_URL": "http://127.0.0.1:22080", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:22080/execution/",
           "MLOPS_FRAUD_HOME": str(project), "MLOPS_FRAUD_BIN": str(Path(sys.executable).parent), "MLOPS_FRAUD_RETRY_SECONDS": "1", "PYTHONPATH": str(project)}  # fmt: skip
    environment = {**os.environ, **own, "PATH": f"{AIRFLOW}{os.pathsep}{os.environ['PATH']}"}

    def airflow(*arguments: str) -> str:
        done = subprocess.run([str(AIRFLOW / "airflow"), *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def tasks() -> dict[str, dict[str, Any]]:
        said = airflow("tasks", "states-for-dag-run", "fraud_retraining", "tested", "--output", "json")
        return {each["task_id"]: each for each in json.loads(said[said.index("[") :])}

    with (tmp_path / "standalone.log").open("wb") as log:
        standalone = subprocess.Popen([str(AIRFLOW / "airflow"), "standalone"], env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while (
            "fraud_retraining"
            not in subprocess.run([str(AIRFLOW / "airflow"), "dags", "list"], env=environment, capture_output=True, text=True).stdout
        ):
            assert standalone.poll() is None and time.monotonic() < deadline, (tmp_path / "standalone.log").read_text()[-3000:]
            time.sleep(2)
        airflow("dags", "unpause", "fraud_retraining")
        airflow("dags", "trigger", "fraud_retraining", "--run-id", "tested")
        killed = kill_once("--only reproduce", deadline)
        while (states := {name: each["state"] for name, each in tasks().items()})["report"] not in ("success", "failed", "upstream_failed"):
            assert time.monotonic() < deadline, states
            time.sleep(3)
        assert killed
        assert set(states.values()) == {"success"}, states
    finally:
        os.killpg(standalone.pid, signal.SIGTERM)
        standalone.wait(60)
    attempts = sorted(path.name for path in (tmp_path / "airflow/logs").rglob("*task_id=reproduce/attempt=*.log"))
    assert attempts[-1] == "attempt=2.log"
    tags = registry.champion_tags(chosen)
    assert (tags["version"], tags["replaced"]) == ("2", "1")


def kill_once(words: str, deadline: float) -> int:
    "Kill the process of a command with these `words`, of this test's project, as soon as it is there. Returns its id."
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                called = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "mlops-fraud retrain" in called and words in called and str(Path(sys.executable).parent) in called:
                time.sleep(2)
                os.kill(int(folder.name), signal.SIGKILL)
                return int(folder.name)
        time.sleep(0.2)
    raise AssertionError(f"no process with {words}")
