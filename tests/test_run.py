"""The main job, as a newcomer starts it: on the real rows, in a clone of its own, until Ctrl-C."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import KAGGLE, free_port


def newcomer(clone: Path) -> dict[str, str]:
    "The environment of someone in `clone`; MLflow leaves the registry of other tests in ours."
    return {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")} | {"PYTHONPATH": str(clone)}


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    "What a test that failed did not end."
    yield
    for process in STARTED:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def start(clone: Path, **changes: str) -> tuple[subprocess.Popen[bytes], Path]:
    "`mlops-fraud run` in `clone`, and the file that it prints to."
    printed = clone.parent / f"printed-{time.monotonic_ns()}"
    environment = {**newcomer(clone), **changes}
    with printed.open("wb") as out:
        process = subprocess.Popen(
            ["mlops-fraud", "run"], cwd=clone, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    STARTED.append(process)
    return process, printed


def wait_for(words: str, process: subprocess.Popen[bytes], printed: Path, patience: float) -> str:
    "What was printed once it holds `words`."
    deadline = time.monotonic() + patience
    while words not in printed.read_text(errors="replace"):
        assert process.poll() is None, f"it ended early:\n{printed.read_text(errors='replace')[-3000:]}"
        assert time.monotonic() < deadline, f"no {words!r} after {patience} s:\n{printed.read_text(errors='replace')[-3000:]}"
        time.sleep(0.2)
    return printed.read_text(errors="replace")


NEW = '    Feature("recipient", "sum", "the recipient received {value} this week", "nothing this week", "core", window=168.0, unit="money"),\n'


def change_a_feature_and_ship_it(clone: Path, url: str) -> None:
    "What a data scientist does between two coffees, while the service at `url` answers: no request fails, no restart."
    table = clone / "nbs/20_features.ipynb"
    notebook = json.loads(table.read_text())
    cell = next(cell for cell in notebook["cells"] if any(line.startswith("FEATURES = (") for line in cell["source"]))
    cell["source"].insert(cell["source"].index(")\n"), NEW)
    table.write_text(json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    environment = {**newcomer(clone), "NO_VENV": "1"}

    def done(*command: str) -> str:
        finished = subprocess.run(command, cwd=clone, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert finished.returncode == 0, finished.stdout[-3000:]
        return finished.stdout

    tried = done("mlops-fraud", "experiment")
    assert "features: + recipient_sum_168h; on the validation period, champion is version 1" in tried
    assert "95 % interval" in tried and "share of fraud money stopped" in tried and "microseconds per answer" in tried

    with httpx.Client(base_url=url, timeout=10) as client:
        events = client.get("/readyz").json()["events"]
        sent, stop = [], threading.Event()
        transaction = {"step": 7, "type": "PAYMENT", "amount": 181.0, "nameOrig": "C1", "nameDest": "M1"}

        def keep_asking() -> None:
            while not stop.wait(0.2):
                sent.append(httpx.post(f"{url}/predict", json=transaction, timeout=30))

        asking = threading.Thread(target=keep_asking)
        asking.start()
        try:
            shipped = done("make", "ship", "NOTEBOOKS=nbs/20_features.ipynb", "ARGS=tests/test_features.py -k recipient_sum")
            deadline = time.monotonic() + 60
            while client.get("/readyz").json()["model"]["version"] != "2":
                assert time.monotonic() < deadline, "the service does not take the new model"
                time.sleep(0.1)
        finally:
            stop.set()
            asking.join()
        assert {answer.status_code for answer in sent} == {200}
        assert {answer.json()["model"]["version"] for answer in sent} >= {"1"}
        assert client.get("/readyz").json()["events"] == events + len(sent)
        told = client.post("/whatif", params={"explain": "full"}, json=transaction).json()["explanation"]["values"]
        assert told["recipient_sum_168h"] == pytest.approx(181.0 * len(sent))
    skipped, run = re.findall(r"Stage '(\w+)' didn't change", shipped), re.findall(r"Running stage '(\w+)'", shipped)
    affected = {"preprocessing", "tuning", "training", "studies", "stress", "evaluation", "model_card", "reports"}
    assert (set(skipped), set(run)) == ({"ingest", "eda"}, affected)


@pytest.mark.minutes
@pytest.mark.timeout(1800)  # all of the pipeline, twice, on whatever machine
def test_from_a_raw_file_to_two_explained_decisions_and_back(clone: Path) -> None:
    shutil.copy(KAGGLE, clone / "data/raw/paysim.csv")
    params = (clone / "params.yaml").read_text()
    for usual, small in [  # what takes minutes says no more in seconds here
        ("n_events: 100000 # of each scenario", "n_events: 10000"),
        ("max_trees: 500", "max_trees: 60"),
        ("n_origins: 4", "n_origins: 2"),
        ("n_resamples: 100 # bootstrap", "n_resamples: 20 # bootstrap"),
    ]:
        assert usual in params
        params = params.replace(usual, small)
    (clone / "params.yaml").write_text(params)
    ports = {"API_PORT": str(free_port()), "APP_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    process, printed = start(clone, **ports)
    try:
        said = wait_for("Ctrl-C ends all three", process, printed, 600)
        for port, page in zip(ports.values(), ("/readyz", "/", "/")):
            assert httpx.get(f"http://127.0.0.1:{port}{page}", timeout=30).status_code == 200
        taken, _ = start(clone, **ports)
        assert taken.wait(60) == 1
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    assert "10,000 events in steps 1-7, 68 frauds; 0 rows refused" in (clone / "reports/data_quality.md").read_text()
    assert "An ordinary payment" in said and "A suspicious cash-out" in said
    assert " ".join(said.split()).count("the risk. (") >= 4  # lines are wrapped
    assert "So few frauds make no trustworthy figures" in (clone / "reports/evaluation.md").read_text()
    assert (clone / "reports/eda_summary.md").exists()
    for port in ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "a server outlived Ctrl-C"

    again, printed = start(clone, **ports)
    try:
        said = wait_for("Ctrl-C ends all three", again, printed, 120)
        assert said.count("didn't change, skipping") == 10
        change_a_feature_and_ship_it(clone, f"http://127.0.0.1:{ports['API_PORT']}")
    finally:
        os.killpg(again.pid, signal.SIGTERM)
        again.wait(30)


def test_a_port_in_use_is_one_sentence(clone: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process, printed = start(clone, API_PORT=port)
        assert process.wait(60) == 1
    said = "mlops-fraud: api_port {} on 127.0.0.1 cannot be used (Address already in use); stop what uses it or set API_PORT"
    assert printed.read_text().strip() == said.format(port)
