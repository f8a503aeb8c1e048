"""How answers, tables and the past grow with trees, depth and recipients; and a whole file at once."""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from in_process import bytes_of
from pipeline import table
from world import DEPTH, SEED, World, grown, model_of, n_leaves, rows_of, timed

from mlops_fraud.features import FEATURES, Event, Feature
from mlops_fraud.model import Calibration, Model
from mlops_fraud.preprocessing import Rows
from mlops_fraud.schemas import DTYPES, TYPES, Thresholds
from mlops_fraud.scoring import score_file
from mlops_fraud.state import BLOCK_ROWS, State, to_arrays
from mlops_fraud.tables import Explainer

EXPLAINED = 2_000  # rows
DEPTHS = (3, 5, 6, 8)
RECIPIENTS = (10_000, 100_000, 1_000_000, 10_000_000)
N_FEATURES = (10, 30, 60, 100)
HALF_LIVES = (1.0, 6.0, 12.0, 36.0, 48.0, 96.0, 168.0)  # hours
ASKED = 5_000  # recipients, at random
BATCH = 20_000  # rows at most that XGBoost explains at once


# ---- a file at once


def offline(folder: Path) -> str:
    "Rows a second from parquet to parquet, beside XGBoost's SHAP values alone."
    world = World(folder)
    version, rows = world.version, State().fold(world.after.head(BATCH))
    with tempfile.TemporaryDirectory() as temporary:
        few = Path(temporary) / "few.parquet"
        world.after.head(10).write_parquet(few)
        score_file(version, few, Path(temporary) / "warm.parquet")  # compiled, or loaded
        start = time.perf_counter()
        n_rows = score_file(version, world.history, Path(temporary) / "scored.parquet")
        ours = n_rows / (time.perf_counter() - start)
    lines = [["`score_file`: features, score, SHAP values, verdict, both files", "1", f"{n_rows:,}", f"{ours:,.0f}", "1.0"]]
    for threads in sorted({1, os.cpu_count() or 1}):
        theirs = 1e6 * len(rows) / batch_microseconds(version.model, rows, threads)
        lines.append(
            ["XGBoost's `pred_contribs` in a batch, nothing else", f"{threads}", f"{len(rows):,}", f"{theirs:,.0f}", f"{ours / theirs:.1f}"]
        )
    return table("how | threads | rows | rows/s | score_file is so many times as fast", lines)


def batch_microseconds(model: Model, rows: np.ndarray, threads: int) -> float:
    "What XGBoost takes for the SHAP values of all `rows`."
    model.booster.set_param({"nthread": threads})
    return float(timed(model.contributions, [rows])[0])


# ---- trees


def of_model(model: Model, rows: np.ndarray) -> list[str]:
    "Microseconds of an explanation, and what its tables take."
    start = time.perf_counter()
    explainer = Explainer(model)
    built = time.perf_counter() - start
    took = timed(explainer.explain, rows[:, None])
    kept = f"{bytes_of(explainer) / 1e6:.1f}" if explainer.tables else "no tables"
    return [f"{np.median(took):.1f}", f"{np.quantile(took, 0.99):.1f}", f"{built:.2f}", kept]


def trees_table(world: World, trees: int) -> str:
    "More trees, and deeper ones."
    learned, rows = rows_of(pl.read_parquet(world.history)), State().fold(world.after.head(EXPLAINED))
    many = grown(learned, DEPTH, 20 * trees // 3)
    models = [(n, DEPTH, many[:n]) for n in (max(k * trees // 3, 1) for k in (1, 3, 10, 20))]
    models += [(trees, depth, grown(learned, depth, trees)) for depth in DEPTHS]
    Explainer(model_of(many[:1])).explain(rows[:1])  # compiled, or loaded
    lines = [[f"{n:,} of depth {depth}", f"{n_leaves(booster):,}", *of_model(model_of(booster), rows)] for n, depth, booster in models]
    return table("trees | leaves | explain, p50 µs | p99 µs | build and check, s | MB", lines)


# ---- features


def wider(n: int) -> tuple[Feature, ...]:
    "The first `n` of the feature table and, where it ends, of what fades in it with other half-lives."
    fading = [feature for feature in FEATURES if feature.statistic in ("count", "sum", "z_score", "level", "ratio_to_mean")]
    others = [replace(feature, window=half_life) for half_life in HALF_LIVES for feature in fading]
    return tuple({feature.name: feature for feature in (*FEATURES, *others)}.values())[:n]


def of_features(world: World, n: int, trees: int) -> list[str]:
    "Microseconds of reading `n` features, of an update, of an explanation; and its tables."
    features, history = wider(n), pl.read_parquet(world.history)
    state = State(features)
    learned = Rows(state.fold(history), *(history[name].to_numpy() for name in ("isFraud", "step", "type", "amount")))
    reads, updates, rows = [], [], []
    for event in events_of(world.after.head(EXPLAINED)):
        rows.append(state.read(event))
        reads.append(timed(state.read, [event])[0])
        updates.append(timed(state.update, [event])[0])
    booster = grown(learned, DEPTH, trees)
    model = Model(booster, Calibration(), Thresholds(review=0.1, block=0.5), features)
    times = [f"{np.median(took):.1f}" for took in (reads, updates)]
    return [
        f"{n:,}",
        f"{len({feature.entity for feature in features}) - 1}",
        f"{n_leaves(booster):,}",
        *times,
        *of_model(model, np.array(rows)),
    ]


def features_table(world: World, trees: int) -> str:
    "More features."
    header = "features | entities | leaves | read, p50 µs | update, p50 µs | explain, p50 µs | p99 µs | build and check, s | MB"
    return table(header, [of_features(world, n, trees) for n in N_FEATURES])


# ---- the past


def paid(recipients: np.ndarray, step: int, seed: int) -> pl.DataFrame:
    "An event for each of the `recipients`, of any type and amount."
    rng, n = np.random.default_rng(seed), len(recipients)
    amounts = np.round(rng.lognormal(11, 1.5, n), 2)
    names = pl.format("C{}", pl.Series("nameDest", recipients))
    events = pl.DataFrame({"step": np.full(n, step), "type": rng.choice(TYPES, n), "amount": amounts, "nameOrig": "C0"})
    return events.with_columns(pl.select(names.alias("nameDest"))["nameDest"]).cast(pl.Schema(DTYPES))


def events_of(frame: pl.DataFrame) -> list[Event]:
    "The rows of `frame` as the state takes them, one by one."
    asked: Any = to_arrays(frame)
    return [Event(float(s), int(t), float(a), r) for s, t, a, r in zip(*asked)]


def of_past(n_recipients: int) -> list[str]:
    "Microseconds of a read and of an update, and the memory, of a state that knows so many recipients."
    rng, state = np.random.default_rng(SEED), State(capacity=n_recipients // 2)
    for first in range(0, n_recipients, BLOCK_ROWS):
        state.fold(paid(np.arange(first, min(first + BLOCK_ROWS, n_recipients)), 1, seed=first))
    events = events_of(paid(rng.integers(0, n_recipients, ASKED), 2, seed=SEED))
    reads, updates = np.array([[timed(run, [event])[0] for run in (state.read, state.update)] for event in events]).T
    memory, size = state.memory, int(state.memory.size[0])
    in_use = (memory.keys[:size].nbytes + memory.rows[:size].nbytes) / size
    megabytes = [f"{part / 1e6:.1f}" for part in (memory.slots.nbytes, memory.keys.nbytes + memory.rows.nbytes)]
    times = [f"{np.quantile(took, q):.1f}" for took in (reads, updates) for q in (0.5, 0.99)]
    return [f"{n_recipients:,}", f"{size:,}", *times, f"{in_use:.0f}", *megabytes]


def past_table() -> str:
    "More recipients."
    of_past(100)  # compiled, or loaded
    header = "recipients | with amounts and bands | read, p50 µs | p99 µs | update, p50 µs | p99 µs | bytes each | MB of slots | MB reserved for rows"
    return table(header, [of_past(n) for n in RECIPIENTS])


def report(folder: Path, trees: int) -> str:
    "All of the growth, in Markdown."
    return "\n\n".join([trees_table(World(folder), trees), features_table(World(folder), trees), past_table()])
