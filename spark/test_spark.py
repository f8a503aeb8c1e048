"""A cluster on this machine makes the rows and the search of one process, to the bit.

make test-spark             # adds pyspark to .venv, if it is not there; takes some minutes, and needs Java, 17 or later
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from mlops_fraud import spark as on_spark
from mlops_fraud.data.simulator import write_simulation
from mlops_fraud.decisions import Costs
from mlops_fraud.features import FEATURES, NAMES, of_groups
from mlops_fraud.preprocessing import preprocess, read_rows, timeline
from mlops_fraud.settings import read_settings
from mlops_fraud.spark import NUMBER, local_cluster, preprocess_on_spark, rows_of, search_on_spark
from mlops_fraud.training.tuning import question, search

pytestmark = pytest.mark.timeout(1_800)
N_EVENTS = 200_000


class Simulated(NamedTuple):
    "Events, and the rows that one process makes of them."

    folder: Path
    events: Path
    rows: Path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    folder = tmp_path_factory.mktemp("simulated")
    write_simulation(folder / "events.parquet", N_EVENTS, seed=7)
    preprocess(folder / "events.parquet", folder / "rows.parquet")
    return Simulated(folder, folder / "events.parquet", folder / "rows.parquet")


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    "Two executors."
    with local_cluster(2) as session:
        yield session


def plain(rows: Path | str) -> pl.DataFrame:
    "Rows without the dictionaries of their file."
    return pl.read_parquet(rows).cast({"type": pl.String, "split": pl.String})


def assert_same(rows: pl.DataFrame, expected: pl.DataFrame) -> None:
    "Bit for bit; NaN equals NaN."
    assert rows.schema == expected.schema
    for name in expected.columns:
        np.testing.assert_array_equal(rows[name].to_numpy(), expected[name].to_numpy(), name)


def test_the_rows_of_a_file_are_those_of_one_process(spark: Any, simulated: Simulated) -> None:
    summary = preprocess_on_spark(spark, simulated.events, simulated.folder / "on_spark")
    assert_same(plain(simulated.folder / "on_spark/*.parquet"), plain(simulated.rows))
    assert summary["events"].sum() == N_EVENTS
    by_path = read_rows(simulated.folder / "on_spark/*.parquet", "test")  # what learns reads the folder like a file
    np.testing.assert_array_equal(by_path.x, read_rows(simulated.rows, "test").x)


@pytest.mark.parametrize("groups", [["core", "rhythm", "trace"], ["trace"]])
def test_neither_order_nor_partitions_of_the_events_matter(
    spark: Any, simulated: Simulated, groups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_spark, "BLOCK_ROWS", 30_000)  # the driver's: rows come in several blocks
    features = of_groups(groups)
    shuffled = pl.read_parquet(simulated.events).with_row_index(NUMBER).cast({NUMBER: pl.Int64}).sample(fraction=1.0, shuffle=True, seed=7)
    shuffled.write_parquet(simulated.folder / "shuffled.parquet")
    events = spark.read.parquet(str(simulated.folder / "shuffled.parquet")).repartition(3)
    rows = rows_of(events, timeline(simulated.events), features, n_partitions=3)
    assert rows.rdd.getNumPartitions() == 7
    rows.write.parquet(str(simulated.folder / groups[0]))
    left_out = [feature.name for feature in FEATURES if feature not in features]
    assert_same(plain(simulated.folder / f"{groups[0]}/*.parquet"), plain(simulated.rows).drop(left_out))


def test_a_search_on_spark_is_the_search_of_one_process(spark: Any, simulated: Simulated, tmp_path: Path) -> None:
    where = read_settings(mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    train, validation = (read_rows(simulated.rows, split, NAMES) for split in ("train", "validation"))
    arguments = train, validation, Costs(2_000.0, 20_000.0), 6, 60, 20_000, 7
    here = search(*arguments, tmp_path / "here.jsonl", where)
    there = search_on_spark(spark, *arguments, tmp_path / "there.jsonl", where)
    assert there.best == here.best
    assert there.trials.equals(here.trials)
    assert there.curves == here.curves


def test_a_search_on_spark_that_was_killed_goes_on(spark: Any, simulated: Simulated, tmp_path: Path) -> None:
    where = read_settings(mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    train, validation = (read_rows(simulated.rows, split, NAMES) for split in ("train", "validation"))
    arguments = train, validation, Costs(2_000.0, 20_000.0), 2, 20, 5_000, 7
    whole = search(*arguments, tmp_path / "whole.jsonl", where)
    first = whole.trials.row(0, named=True)
    figures = {name: first[name] for name in ("live_average_precision", "cost", "n_trees")} | {"worth": 7.0}
    params = {name: value for name, value in first.items() if name not in figures}
    asked = {"n_trials": 2, "max_trees": 20, "genuine_rows": 5_000, "seed": 7}
    lines = (
        {"question": question(train, validation, arguments[2], asked)},
        {"trial": 0, "params": params, "figures": figures, "curves": [[], [], []]},
    )
    (tmp_path / "killed.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    resumed = search_on_spark(spark, *arguments, tmp_path / "killed.jsonl", where)
    assert resumed.trials["worth"][0] == 7.0
    assert resumed.trials[1:].select(whole.trials.columns).equals(whole.trials[1:])


def test_a_trial_that_fails_says_so(spark: Any, simulated: Simulated, tmp_path: Path) -> None:
    rows = read_rows(simulated.rows, "validation", NAMES)
    broken = rows._replace(x=rows.x[:, :3])
    with pytest.raises(RuntimeError, match="trial 0 failed on Spark"):
        search_on_spark(spark, rows, broken, Costs(2_000.0, 20_000.0), 1, 20, 5_000, 7, tmp_path / "search.jsonl")
