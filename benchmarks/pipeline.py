"""Seconds, rows a second and peak memory of each stage of the pipeline, and of the same features in pandas.

    make bench-pipeline FILE=path.parquet

Each measurement is a process of its own, so that its peak is its own. This one imports nothing large: a process
inherits the peak of the one that forked it.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple


class Cost(NamedTuple):
    "What a run takes."

    wall: float  # seconds by the clock
    cpu: float  # seconds of all threads and of processes that it started and ended


Run = Callable[[Path], Cost]  # of a folder with the inputs
STAGES: dict[str, Run] = {}
ALONE = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}  # one thread, as the goal for features says
CHECKED_ROWS = 50_000  # on which pandas must say what we say
TOLERANCE = 1e-5  # relative; features are float32
GIB = dict.fromkeys(("evaluation", "studies", "stress", "model_card"), 6.0)  # peak; of any other stage 3
GOALS: dict[str, Callable[[int, Cost], bool]] = {  # rows a second of work, which a busy machine leaves alone; or seconds
    "ingest, parquet": lambda rows, cost: rows >= 1.5e6 * cost.cpu,
    "ingest, csv": lambda rows, cost: rows >= 0.5e6 * cost.cpu,
    "features, fold alone": lambda rows, cost: rows >= 1e6 * cost.cpu,
    "features, with files": lambda rows, cost: rows >= 1e6 * cost.cpu,
    "eda": lambda rows, cost: cost.wall <= 90,
    "split": lambda rows, cost: cost.wall <= 20,
}


class Measurement(NamedTuple):
    "One stage on one number of rows. NaN where it failed."

    stage: str
    rows: int
    cost: Cost
    peak: float  # GiB

    @property
    def verdict(self) -> str:
        "Whether it reaches its goals."
        if math.isnan(self.peak):
            return "failed"
        reached = GOALS.get(self.stage, lambda rows, cost: True)(self.rows, self.cost) and self.peak <= GIB.get(self.stage, 3.0)
        return "yes" if reached else "no"


def stage(name: str) -> Callable[[Run], Run]:
    "Declare how stage `name` is run."
    return lambda run: STAGES.setdefault(name, run)


def cost(run: Callable[[], object]) -> Cost:
    "What `run` takes."
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    run()
    return Cost(time.perf_counter() - wall, sum(os.times()[:4]) - cpu)


# ---- data


def write_inputs(source: Path | None, n_rows: int, folder: Path) -> int:
    "The first `n_rows` of `source` (0: all) as raw.parquet and raw.csv, and how many there are. None: the file in data/raw/, or a simulated one."
    import polars as pl

    from mlops_fraud.data.ingest import OPTIONAL, raw_file
    from mlops_fraud.data.simulator import write_simulation
    from mlops_fraud.schemas import DTYPES
    from mlops_fraud.settings import project_root, settings

    source = source or raw_file(project_root(), settings())
    if not source.exists() and source.name.startswith("simulated-"):
        source = folder / "simulated.parquet"
        write_simulation(source, settings().simulated_rows, settings().simulated_seed)
    types = {**DTYPES, **OPTIONAL}
    raw = pl.scan_parquet(source) if source.suffix == ".parquet" else pl.scan_csv(source, schema_overrides=types)
    (raw.head(n_rows) if n_rows else raw).sink_parquet(folder / "raw.parquet", row_group_size=1 << 19)
    pl.scan_parquet(folder / "raw.parquet").sink_csv(folder / "raw.csv")
    return int(pl.scan_parquet(folder / "raw.parquet").select(pl.len()).collect().item())


@stage("ingest, parquet")
def ingest_parquet(folder: Path) -> Cost:
    from mlops_fraud.data.ingest import ingest

    return cost(lambda: ingest(folder / "raw.parquet", folder / "events.parquet", folder / "refused.csv"))


@stage("ingest, csv")
def ingest_csv(folder: Path) -> Cost:
    from mlops_fraud.data.ingest import ingest

    return cost(lambda: ingest(folder / "raw.csv", folder / "from_csv.parquet", folder / "refused.csv"))


@stage("eda")
def eda(folder: Path) -> Cost:
    return notebook("eda", folder)


# ---- features


def warm_up() -> None:
    "Load the compiled kernel, so that compiling it is not counted."
    import polars as pl

    from mlops_fraud.schemas import DTYPES
    from mlops_fraud.state import State

    State().fold(pl.DataFrame([(1, "TRANSFER", 1.0, "C1", "C2")], schema=DTYPES, orient="row"))


def folded(features: Any, events: Path) -> Cost:
    "What it takes to fold the `events` into a table of `features`."
    import pyarrow.parquet as pq

    from mlops_fraud.state import State, event_blocks

    state = State(features, pq.ParquetFile(events).metadata.num_rows // 2)
    costs = [cost(lambda block=block: state.fold(block)) for block in event_blocks(events)]  # type: ignore[misc]
    return Cost(*(sum(part) for part in zip(*costs)))


@stage("features, fold alone")
def fold(folder: Path) -> Cost:
    from mlops_fraud.features import FEATURES

    warm_up()
    return folded(FEATURES, folder / "events.parquet")


@stage("features, fold of the twelve that pandas computes")
def fold_of_twelve(folder: Path) -> Cost:
    from pandas_features import COMPARED

    warm_up()
    return folded(COMPARED, folder / "events.parquet")


@stage("features, with files")
def features(folder: Path) -> Cost:
    from mlops_fraud.preprocessing import preprocess

    warm_up()
    return cost(lambda: preprocess(folder / "events.parquet", folder / "rows.parquet", label_delay=0))


@stage("features, pandas")
def in_pandas(folder: Path) -> Cost:
    import pandas as pd
    import polars as pl
    from pandas_features import COMPARED, largest_difference, pandas_features

    from mlops_fraud.state import State

    events = pd.read_parquet(folder / "events.parquet", columns=["step", "type", "amount", "nameDest"])
    ours = State(COMPARED).fold(pl.read_parquet(folder / "events.parquet", n_rows=CHECKED_ROWS))
    difference = largest_difference(pandas_features(events[:CHECKED_ROWS]), ours)
    if difference > TOLERANCE:
        raise SystemExit(f"pandas' features differ from ours by up to {difference:.1e}; at most {TOLERANCE:.0e} is rounding")
    return cost(lambda: pandas_features(events))


# ---- learning


@stage("split")
def split(folder: Path) -> Cost:
    import polars as pl

    from mlops_fraud.preprocessing import read_rows, split_column, split_summary, timeline

    events, rows = folder / "events.parquet", folder / "rows.parquet"

    def parts() -> None:
        split_column(pl.read_parquet(events, columns=["step"])["step"].to_numpy(), 0, timeline(events))
        split_summary(rows)
        read_rows(rows, "train"), read_rows(rows, "validation"), read_rows(rows, "test")

    return cost(parts)


MODEST = {"tuning": {"n_trials": 2}, "evaluation": {"n_resamples": 20}}


def notebook(name: str, folder: Path) -> Cost:
    "The notebook of stage `name` as DVC runs it, start of its kernel included, with its files in `folder`."
    import yaml

    from mlops_fraud.settings import project_root
    from mlops_fraud.stages import find_notebook, run_notebook

    root = project_root()
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["shared"] |= {key: str(folder / Path(path).name) for key, path in params["shared"].items() if isinstance(path, str)}
    params[name] = (params.get(name) or {}) | MODEST.get(name, {})
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    found = find_notebook(root, name)
    return cost(lambda: run_notebook(found, folder / found.name, params, name, root))


for name in ("tuning", "training", "evaluation", "studies", "stress", "model_card"):
    stage(name)(partial(notebook, name))


# ---- a process a measurement


def child(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    "This file, run with `arguments`; what fails in it is shown here too."
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr, flush=True)
    return done


def measure(name: str, folder: Path) -> None:
    "The child's side: run stage `name`, then print its measurement."
    took = STAGES[name](folder)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * unit / 2**30
    print(json.dumps([*took, peak]))


def measured(name: str, folder: Path, n_rows: int) -> Measurement:
    "Stage `name` in a process of its own; a notebook's kernel is added to its peak."
    done = child("--measure", name, "--folder", str(folder), **(ALONE if name.startswith("features") else {}))
    wall, cpu, peak = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else [math.nan] * 3
    print(f"{name}, {n_rows:,} rows: {wall:.2f} s", file=sys.stderr, flush=True)
    return Measurement(name, n_rows, Cost(wall, cpu), peak)


def benchmark(source: Path | None, sizes: list[int], stages: list[str]) -> list[list[Measurement]]:
    "Each of `stages` on the first rows of `source`, as many as `sizes` say; all sizes of a stage in a row, so that they meet the same weather."
    with tempfile.TemporaryDirectory() as temporary:
        inputs: dict[Path, int] = {}
        for n_rows in sizes:
            folder = Path(temporary) / f"{n_rows}"
            folder.mkdir()
            written = child("--write-inputs", str(n_rows), "--folder", str(folder), *([str(source)] if source else []))
            if written.returncode:
                sys.exit(1)
            inputs[folder] = int(written.stdout)
        return [[measured(name, folder, n_rows) for folder, n_rows in inputs.items()] for name in stages]


# ---- what is printed


def table(header: str, rows: list[list[str]]) -> str:
    "A Markdown table; all columns but the first go right."
    names = header.split(" | ")
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, ["---", *["---:"] * (len(names) - 1)], *rows])


def rate(m: Measurement) -> str:
    "Rows a second of work."
    return f"{m.rows / m.cost.cpu:,.0f}" if m.cost.cpu else "-"


def each_row(m: Measurement) -> str:
    "Seconds, and microseconds of work a row."
    return "failed" if m.verdict == "failed" else f"{m.cost.wall:.2f} s, {1e6 * m.cost.cpu / m.rows:.2f} µs"


def summary(stages: list[list[Measurement]]) -> str:
    "Tables of the last size, of growth with the size, and of pandas beside the fold, from the measurements of each stage."
    last = [[m.stage, f"{m.cost.wall:.2f}", f"{m.cost.cpu:.2f}", rate(m), f"{m.peak:.2f}", m.verdict] for *_, m in stages]
    growth = [[at[0].stage, *map(each_row, at)] for at in stages]
    said = [
        f"{stages[0][-1].rows:,} rows:",
        table("stage | seconds | CPU s | rows/CPU s | peak GiB | goal reached", last),
        "Seconds, and microseconds of CPU a row:",
        table(" | ".join(["stage", *(f"{m.rows:,} rows" for m in stages[0])]), growth),
    ]
    took = {at[-1].stage: at[-1].cost.cpu for at in stages}
    ours = "features, fold of the twelve that pandas computes"
    if {"features, pandas", ours} <= set(took):
        ratio = took["features, pandas"] / took[ours]
        said.append(
            f"pandas works {ratio:.1f} times as long as the fold, for the same features (equal on the first {CHECKED_ROWS:,} rows)."
        )
    return "\n\n".join(said)


def main() -> None:
    "Measure what the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="transactions, .parquet or .csv; by default data/raw's file, or a simulated one")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 2_000_000, 4_000_000, 0], help="first rows to take; 0: all")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="a later one needs the files of an earlier")
    for hidden, kind in (("--measure", str), ("--write-inputs", int), ("--folder", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.folder)
    elif given.write_inputs is not None:
        print(write_inputs(given.file, given.write_inputs, given.folder))
    else:
        stages = benchmark(given.file, given.rows, given.stages)
        print(summary(stages))
        sys.exit(any(m.verdict == "failed" for at in stages for m in at))


if __name__ == "__main__":
    main()
