"""Seconds, rows a second and peak memory of each stage of the pipeline, and of the same features in pandas.

    make bench-pipeline FILE=path.parquet

Each measurement is a process of its own, so that its peak is its own; this one imports nothing large,
because a child's peak starts at the size of the process that forked it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STAGES: dict[str, Callable[[Path], float]] = {}


def stage(name: str) -> Callable[[Callable[[Path], float]], Callable[[Path], float]]:
    "Declare a function of a folder with the inputs; it returns the seconds that count."

    def declare(run: Callable[[Path], float]) -> Callable[[Path], float]:
        STAGES[name] = run
        return run

    return declare


def seconds(run: Callable[[], object]) -> float:
    "How long `run` takes."
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


# ---- inputs


@stage("inputs")
def write_inputs(folder: Path) -> float:
    "The file as raw.parquet and raw.csv."
    import polars as pl

    raw = pl.scan_parquet(folder / "source")

    def write() -> None:
        raw.sink_parquet(folder / "raw.parquet", row_group_size=1 << 19)
        pl.scan_parquet(folder / "raw.parquet").sink_csv(folder / "raw.csv")

    return seconds(write)


def warm_up() -> None:
    "Load the compiled kernel, so that it is not counted."
    import polars as pl

    from mlops_fraud.schemas import DTYPES
    from mlops_fraud.state import State

    State().fold(pl.DataFrame([(1, "TRANSFER", 1.0, "C1", "C2")], schema=DTYPES, orient="row"))


# ---- data


@stage("ingest, parquet")
def ingest_parquet(folder: Path) -> float:
    from mlops_fraud.data.ingest import ingest

    return seconds(lambda: ingest(folder / "raw.parquet", folder / "events.parquet", folder / "refused.csv"))


@stage("ingest, csv")
def ingest_csv(folder: Path) -> float:
    from mlops_fraud.data.ingest import ingest

    return seconds(lambda: ingest(folder / "raw.csv", folder / "from_csv.parquet", folder / "refused.csv"))


@stage("eda")
def eda(folder: Path) -> float:
    return notebook("eda", folder)


# ---- features


@stage("features, fold alone")
def fold(folder: Path) -> float:
    import polars as pl

    from mlops_fraud.state import State, event_blocks

    warm_up()
    n_events = pl.scan_parquet(folder / "events.parquet").select(pl.len()).collect().item()
    state = State(capacity=n_events // 2)
    return sum(seconds(lambda block=block: state.fold(block)) for block in event_blocks(folder / "events.parquet"))  # type: ignore[misc]


@stage("features, with files")
def features(folder: Path) -> float:
    from mlops_fraud.preprocessing import preprocess

    warm_up()
    return seconds(lambda: preprocess(folder / "events.parquet", folder / "rows.parquet"))


@stage("features, pandas")
def in_pandas(folder: Path) -> float:
    import pandas as pd
    from pandas_features import pandas_features

    columns = ["step", "type", "amount", "nameDest"]
    events = pd.read_parquet(folder / "events.parquet", columns=columns)
    return seconds(lambda: pandas_features(events))


def difference_to_pandas(folder: Path, n_rows: int = 50_000) -> float:
    "The largest relative difference between pandas' features and ours on the first `n_rows` events."
    import pandas as pd
    import polars as pl
    from pandas_features import largest_difference, pandas_features

    from mlops_fraud.state import State

    events = pl.read_parquet(folder / "events.parquet", n_rows=n_rows)
    return largest_difference(pandas_features(pd.DataFrame(events.to_dict())), State().fold(events))


# ---- learning


@stage("split")
def split(folder: Path) -> float:
    from mlops_fraud.preprocessing import read_rows, split_summary

    def parts() -> None:
        split_summary(folder / "rows.parquet")
        for part in ("train", "validation", "test"):
            read_rows(folder / "rows.parquet", part)  # type: ignore[arg-type]

    return seconds(parts)


@stage("tuning")
def tuning(folder: Path) -> float:
    return notebook("tuning", folder)


@stage("training")
def training(folder: Path) -> float:
    return notebook("training", folder)


@stage("evaluation")
def evaluation(folder: Path) -> float:
    return notebook("evaluation", folder)


MODEST = {"tuning": {"n_trials": 2}, "evaluation": {"n_resamples": 20}}


def notebook(name: str, folder: Path) -> float:
    "Seconds of the notebook of stage `name` as DVC runs it, start of its kernel included, with its files in `folder`."
    import yaml

    from mlops_fraud.settings import project_root
    from mlops_fraud.stages import find_notebook, run_notebook

    root, params = project_root(), yaml.safe_load((project_root() / "params.yaml").read_text())
    files = {key: str(folder / Path(path).name) for key, path in params["shared"].items() if isinstance(path, str)}
    params["shared"] |= files
    params[name] = (params.get(name) or {}) | MODEST.get(name, {})
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    found = find_notebook(root, name)
    return seconds(lambda: run_notebook(found, folder / found.name, params, name, folder))


# ---- a process a measurement


def measured(name: str, folder: Path) -> tuple[float, float]:
    "Seconds and peak memory (GiB) of stage `name` in a process of its own."
    alone = {"POLARS_MAX_THREADS": "1"} if name in ("features, fold alone", "features, pandas") else {}
    command = [sys.executable, __file__, "--measure", name, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env={**os.environ, **alone}, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, folder: Path) -> None:
    "The child's side: run, then print seconds and peak."
    took = STAGES[name](folder)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps([took, peak * (1 if sys.platform == "darwin" else 1024) / 2**30]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="transactions, .parquet or .csv")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return measure(given.measure, given.file)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "source").symlink_to(given.file.resolve())
        for name in STAGES:
            took, peak = measured(name, folder)
            print(f"{name:24} {took:8.2f} s {peak:6.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
