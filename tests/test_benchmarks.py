"""The benchmark of the pipeline runs, small. How long anything takes is asserted nowhere."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from mlops_fraud.data.simulator import simulated, write_simulation
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
def pipeline(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("pipeline")


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
