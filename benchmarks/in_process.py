"""What a decision takes without a network: as a whole, stage by stage, and beside XGBoost's own SHAP values."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import xgboost as xgb
from pipeline import table
from world import World, grown, model_of, n_leaves, rows_of, timed

from mlops_fraud.deployment.service import settle
from mlops_fraud.explain import reasons
from mlops_fraud.ledger import Ledger
from mlops_fraud.schemas import read_request
from mlops_fraud.scoring import Scorer
from mlops_fraud.state import State, past, to_event
from mlops_fraud.tables import CLOSE, Explainer, probes

FLUSH_EVERY = 64  # decisions to one write of the log, as under load
SELDOM = 1_000  # so few writes that 99 % of the decisions do not follow one
WARM_UP = 100  # transactions that are not counted
BESIDE = 2_000  # rows at most that XGBoost explains one by one
EXACT_ROWS = 50_000  # at most, on which each model must say what XGBoost says
MISSING = 0.1  # of their values, besides those that are missing anyway
DECISION_GOAL = (30.0, 80.0)  # microseconds, half of them and 99 % of them
TIMES_FASTER = 50.0  # than XGBoost, one row at a time
DEPTHS = (3, 6, 8)


def bytes_of(explainer: Explainer) -> int:
    "What the tables take in memory; 0 if there are none."
    return sum(part.nbytes for part in explainer.tables or () if isinstance(part, np.ndarray))


def scorer_of(world: World, ledger: str) -> Scorer:
    "A scorer that knows the history and nothing else."
    version = world.version
    state = past(world.history, world.folder, version.model.features)
    return Scorer(version, state, Ledger(world.folder / ledger, state.history))


def line(name: str, took: np.ndarray, goal: tuple[float, float] | None = None) -> list[str]:
    "A row of the table of times, in microseconds."
    p50, p99 = np.quantile(took, [0.5, 0.99])
    said = "" if goal is None else f"{goal[0]:.0f}, {goal[1]:.0f}: {'yes' if p50 <= goal[0] and p99 <= goal[1] else 'no'}"
    return [name, f"{took.mean():.1f}", f"{p50:.1f}", f"{p99:.1f}", said]


# ---- a decision


def decisions(scorer: Scorer, bodies: list[bytes], every: int = FLUSH_EVERY) -> tuple[np.ndarray, np.ndarray]:
    "Microseconds of each decision, from its JSON on, and of each flush of so many of them."
    flushes = []

    def decide(body: bytes) -> None:
        scorer.decide(read_request(body))

    decided = []
    for start in range(0, len(bodies), every):
        decided.append(timed(decide, bodies[start : start + every]))
        flushes.append(timed(lambda _: scorer.flush(), [None]))
    return np.concatenate(decided), np.concatenate(flushes)


@dataclass
class Passing:
    "A transaction on its way through the stages."

    body: bytes
    tx: Any = None
    row: Any = None
    margin: Any = None
    shap: Any = None
    reasons: Any = None
    linked: Any = None


Stage = Callable[[Scorer, Passing], None]
STAGES: dict[str, Stage] = {}


def stage(name: str) -> Callable[[Stage], Stage]:
    "Declare a stage of a decision, in their order."
    return lambda run: STAGES.setdefault(name, run)


@stage("parse and check the JSON")
def parse(scorer: Scorer, at: Passing) -> None:
    at.tx = read_request(at.body)


@stage("features")
def features(scorer: Scorer, at: Passing) -> None:
    at.row = scorer.state.read(to_event(at.tx))


@stage("score and SHAP values")
def score(scorer: Scorer, at: Passing) -> None:
    at.margin, at.shap = scorer.champion.explainer.explain_one(at.row)


@stage("reasons")
def say_why(scorer: Scorer, at: Passing) -> None:
    (at.reasons,) = reasons(scorer.champion.sayings, at.row[None], at.shap[None], scorer.n_reasons)


@stage("the transfer that it cashes out, if its features do not rule one out")
def link(scorer: Scorer, at: Passing) -> None:
    at.linked = scorer._linked(at.tx, scorer._transferred([at.tx], at.row[None])) if at.tx.type == "CASH_OUT" else []


@stage("verdict, costs, the answer and its JSON")
def answer(scorer: Scorer, at: Passing) -> None:
    probability = scorer.champion.version.model.calibrated(at.margin)
    scorer._verdict(scorer.champion, at.tx, at.row, at.margin, at.shap, probability, at.reasons, at.linked)


@stage("the past includes it")
def include(scorer: Scorer, at: Passing) -> None:
    scorer.state.update(to_event(at.tx))


def by_stage(scorer: Scorer, bodies: list[bytes]) -> dict[str, np.ndarray]:
    "Microseconds of each stage of each decision; the stages of one decision follow one another."
    passing = map(Passing, bodies)
    took = [[timed(lambda at, run=run: run(scorer, at), [one])[0] for run in STAGES.values()] for one in passing]  # type: ignore[misc]
    return dict(zip(STAGES, np.array(took).T))


def decision_table(world: World, n_rows: int) -> str:
    "The whole and its stages."
    bodies = [line.encode() for line in world.after.head(n_rows + WARM_UP).write_ndjson().splitlines()]
    whole, stages = scorer_of(world, "whole.sqlite"), scorer_of(world, "stages.sqlite")
    settle()  # as the service does
    decisions(whole, bodies[:WARM_UP]), by_stage(stages, bodies[:WARM_UP])
    decided, flushes = decisions(whole, bodies[WARM_UP:])
    unwritten, _ = decisions(scorer_of(world, "unwritten.sqlite"), bodies[WARM_UP:], SELDOM)
    parts = by_stage(stages, bodies[WARM_UP:])
    rest = decided.mean() - sum(part.mean() for part in parts.values())
    rows = [
        line(f"a decision, from JSON to JSON, the log written after {FLUSH_EVERY}", decided, DECISION_GOAL),
        line(f"the same, the log written after {SELDOM:,}", unwritten, DECISION_GOAL),
        *(line(f"· {name}", part) for name, part in parts.items()),
        ["· all else: an id, an entry for the log", f"{rest:.1f}", "", "", ""],
        line(f"flush of {FLUSH_EVERY} to the log", flushes),
        line("· a row", flushes / FLUSH_EVERY),
    ]
    return f"{len(decided):,} transactions after a history of {whole.state.n_events - len(bodies):,}; µs:\n\n" + table(
        "what | mean | p50 | p99 | goal, and reached", rows
    )


# ---- beside XGBoost


def batch(run: Callable[[Any], object], rows: np.ndarray) -> float:
    "Microseconds a row, all at once."
    return float(timed(run, [rows])[0]) / len(rows)


def beside_table(world: World, n_rows: int) -> str:
    "SHAP values by tables and by XGBoost; both in one thread."
    model, rows = world.model, State().fold(world.after.head(n_rows))
    Explainer(model).explain(rows[:1])  # compiled, or loaded
    built = time.perf_counter()
    explainer = Explainer(model)
    built = time.perf_counter() - built
    few = rows[: min(n_rows, BESIDE)]
    ours, theirs = (timed(run, few[:, None]) for run in (explainer.explain, model.contributions))
    singly, together = np.median(theirs) / np.median(ours), batch(model.contributions, few) / batch(explainer.explain, rows)
    lines = [
        ["tables, one row at a time", *line("", ours)[1:4]],
        ["XGBoost's `pred_contribs`, one row at a time", *line("", theirs)[1:4]],
        ["tables, all rows at once", f"{batch(explainer.explain, rows):.1f}", "", ""],
        ["XGBoost's `pred_contribs`, all rows at once", f"{batch(model.contributions, few):.1f}", "", ""],
    ]
    reached = "yes" if singly >= TIMES_FASTER else "no"
    return "\n\n".join([
        f"Score and SHAP values of {model.booster.num_boosted_rounds()} trees with {n_leaves(model.booster):,} leaves, µs a row:",
        table("how | mean | p50 | p99", lines),
        f"XGBoost takes {singly:,.0f} times as long one row at a time (goal {TIMES_FASTER:.0f}: {reached}), {together:,.0f} times in a batch. "
        f"The tables are built and checked in {built:.2f} s and take {bytes_of(explainer) / 1e6:.1f} MB.",
    ])  # fmt: skip


# ---- exactness


class Exactness(NamedTuple):
    "How far tables and XGBoost disagree on so many rows."

    rows: int
    margins: int  # that are not the same float32
    shap: float  # greatest difference of a SHAP value
    largest: float  # SHAP value, for comparison

    @property
    def reached(self) -> str:
        "Whether it is as exact as the service asks for."
        return "yes" if self.margins == 0 and self.shap <= CLOSE * max(1.0, self.largest) else "no"


def exactness(booster: xgb.Booster, rows: np.ndarray) -> Exactness | None:
    "Tables beside XGBoost, on `rows` and on as many that lie at the thresholds; None where the trees do not fit into tables."
    explainer = Explainer(model_of(booster))
    if explainer.tables is None:
        return None
    rows = np.concatenate([rows, probes(explainer.tables, len(rows), seed=11)])
    margins, shap = explainer.explain(rows)
    differing = int((margins.view(np.uint32) != booster.inplace_predict(rows, predict_type="margin").view(np.uint32)).sum())
    booster.set_param({"nthread": os.cpu_count() or 1})
    theirs = booster.predict(xgb.DMatrix(rows), pred_contribs=True)
    return Exactness(len(rows), differing, float(np.abs(shap - theirs).max()), float(np.abs(theirs).max()))


def exactness_table(world: World, n_rows: int, trees: int) -> str:
    "Models of several sizes, on transactions with more values missing than they have."
    learned, rng = rows_of(pl.read_parquet(world.history)), np.random.default_rng(3)
    rows = State().fold(world.after.head(min(n_rows, EXACT_ROWS)))
    rows[rng.random(rows.shape) < MISSING] = np.nan
    lines = []
    for depth in DEPTHS:
        booster = grown(learned, depth, trees)
        for n_trees in (max(trees // 3, 1), trees):
            found, name = exactness(booster[:n_trees], rows), f"{n_trees} of depth {depth}"
            lines.append(
                [name, f"{found.rows:,}", f"{found.margins:,}", f"{found.shap:.1e}", f"{found.largest:.2f}", found.reached]
                if found
                else [name, "-", "-", "-", "-", "no tables"]
            )
    header = "trees | rows | margins that differ in a bit | largest difference of a SHAP value | largest SHAP value | goal reached"
    return f"Tables beside XGBoost (goal: no margin differs, SHAP values by at most {CLOSE:g} of the largest):\n\n" + table(header, lines)


def report(folder: Path, n_rows: int, trees: int) -> str:
    "All of this file, in Markdown."
    world = World(folder)
    return "\n\n".join([decision_table(world, n_rows), beside_table(world, n_rows), exactness_table(world, n_rows, trees)])
