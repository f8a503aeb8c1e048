"""The benchmarks run, small. How long anything takes is asserted nowhere."""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import ROOT

from mlops_fraud.casework import Casework, Filter
from mlops_fraud.data.simulator import simulated, write_simulation
from mlops_fraud.ledger import Ledger
from mlops_fraud.state import State

DATA_STAGES = [
    "ingest, parquet",
    "ingest, csv",
    "features, fold alone",
    "features, fold of the twelve that pandas computes",
    "features, with files",
    "features, pandas",
    "split",
]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    "A file of benchmarks/ as a module, by its name."
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def pipeline(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("pipeline")


def test_each_data_stage_runs_on_a_small_file(pipeline: ModuleType, tmp_path: Path) -> None:
    write_simulation(tmp_path / "small.csv", 20_000, seed=7)
    pipeline.write_inputs(tmp_path / "small.csv", 0, tmp_path)
    for name in DATA_STAGES:
        assert pipeline.STAGES[name](tmp_path).wall > 0, name


def test_pandas_computes_the_features_that_we_compute(pipeline: ModuleType) -> None:
    theirs = importlib.import_module("pandas_features")
    events = simulated(20_000, seed=7)
    ours = State(theirs.COMPARED).fold(events)
    frame = theirs.pandas_features(pd.DataFrame(events.to_dict(as_series=False)))
    assert theirs.largest_difference(frame, ours) < pipeline.TOLERANCE
    assert theirs.largest_difference(frame, ours * np.float32(1.001)) > pipeline.TOLERANCE


def test_what_is_measured_in_a_process_of_its_own_is_printed_as_a_table(tmp_path: Path) -> None:
    write_simulation(tmp_path / "small.parquet", 20_000, seed=7)
    command = [sys.executable, "benchmarks/pipeline.py", str(tmp_path / "small.parquet"), "--rows", "10000", "--stages", "ingest, parquet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("| ingest, parquet") and line.endswith((" yes |", " no |")))
    assert 0.05 < float(line.split(" | ")[4]) < 3  # GiB
    assert "10,000 rows:" in done.stdout


def test_rows_on_spark_are_compared_value_by_value(benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    spark = benchmark("spark")
    spark.write_events(tmp_path, 400_000, seed=7)
    took = spark.alone(tmp_path, [100_000, 400_000])
    rows = pl.read_parquet(tmp_path / "rows-100000.parquet").cast({"type": pl.String, "split": pl.String})
    (tmp_path / "on_spark").mkdir()
    for first, part in ((0, "a"), (60_000, "b")):
        rows[first : first + 60_000].write_parquet(tmp_path / f"on_spark/{part}.parquet")
    assert spark.different(tmp_path / "on_spark/*.parquet", tmp_path / "rows-100000.parquet") == 0
    rows.with_columns(pl.col("money") + 0.01).write_parquet(tmp_path / "other.parquet")
    assert spark.different(tmp_path / "other.parquet", tmp_path / "rows-100000.parquet") == 100_000
    said = spark.report([100_000, 400_000], took, {1: took | {"start": 3.0, "different": 100_000}})
    assert "in all of these files: 100,000." in said and "| events | one process, s | 1 executor, s |" in said


def test_decisions_are_timed_by_stage_and_compared_with_xgboost(benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    in_process, world = benchmark("in_process"), benchmark("world")
    world.prepare(tmp_path, 10_000, 400, trees=6)
    said = in_process.report(tmp_path, 200, trees=6)
    lines = [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert {f"· {name}" for name in in_process.STAGES} < {name for name, *_ in lines}
    exact = [line for line in lines if " of depth " in line[0]]
    assert len(exact) == 6 and all(line[2] == "0" and line[-1] == "yes" for line in exact)


def test_the_service_benchmark_says_what_is_missing() -> None:
    command = [sys.executable, "benchmarks/service.py", "--only", "http"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PATH": ""})
    assert done.returncode == 1 and "apt-get install wrk" in done.stderr
    done = subprocess.run([*command[:-1], "https"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "https; choose from in-process, http, offline, growth, start" in done.stderr


def test_a_start_is_timed_from_the_events_and_from_a_snapshot(
    benchmark: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = benchmark("starts")
    monkeypatch.setattr(starts, "STARTS", 2)
    first, second = starts.started(tmp_path / "start", 10_000, trees=6)
    assert (first[0], second[0]) == ("the events", "a snapshot")
    assert len(list((tmp_path / "start").glob("state-*.npz"))) == 1


def test_a_pause_is_the_time_without_an_answer_while_one_is_due(benchmark: Callable[[str], ModuleType]) -> None:
    told = benchmark("pauses")
    due = np.array([0.0, 1.0, 2.0, 2.1, 9.0])
    done = np.array([0.1, 1.1, 2.5, 2.51, 9.1])
    longest = told.pauses(told.Answered(due, done, np.full(5, 200)), 2)
    assert [round(pause.milliseconds) for pause in longest] == [500, 100]
    assert longest[0].at == 2.0


def test_the_processor_time_of_a_process_holds_that_of_its_children(benchmark: Callable[[str], ModuleType]) -> None:
    load = benchmark("load")
    before = load.cpu_seconds([os.getpid()])
    work = "import time; deadline = time.process_time() + 0.5\nwhile time.process_time() < deadline: pass\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", work]) as child:
        while load.cpu_seconds([child.pid]) < 0.5:
            time.sleep(0.05)
        both = load.cpu_seconds([os.getpid()]) - before
        child.kill()
    assert both >= 0.5


def test_a_soak_tells_its_parts_apart(benchmark: Callable[[str], ModuleType]) -> None:
    soak = benchmark("soak")
    due = np.arange(0, 60, 0.1)
    answered = soak.Answered(due, due + 0.001, np.where(due < 50, 200, 503))
    rows = soak.told(answered, np.arange(0.0, 60, 5), np.arange(12.0)[:, None], 1.0).splitlines()[2:]
    assert [row.split("|")[2:5] for row in (rows[0], rows[-1])] == [[" 1 ", " 100 ", " 0 "], [" 11 ", " 100 ", " 100 "]]


def test_the_log_behind_the_app_s_figures_holds_decisions_and_labels(benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    pages, world = benchmark("pages"), benchmark("world")
    made = world.prepare(tmp_path, 10_000, 1_100, trees=6)
    pages.with_a_long_queue(made)
    pages.fill(made, 2_200)
    assert all(microseconds > 0 for microseconds in pages.cost_of_indexes(made))
    ledger = Ledger(tmp_path / pages.LOG)
    totals = Casework(ledger).totals(Filter())
    assert len(ledger) == 2_200 and totals["fraud"].n == totals["genuine"].n > 0
    ledger.close()
