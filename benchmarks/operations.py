"""What the scripts on running a model for months share: steady days, a model made of some of them, and a log of the others."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from mlops_fraud import registry
from mlops_fraud.decisions import Costs
from mlops_fraud.evaluation import choose_levels, examine, summary
from mlops_fraud.ledger import Entry, Ledger
from mlops_fraud.model import Model
from mlops_fraud.preprocessing import preprocess, read_rows
from mlops_fraud.promotion import REFERENCE, reference_rows
from mlops_fraud.schemas import COLUMNS, TransactionRequest
from mlops_fraud.scoring import Scorer
from mlops_fraud.settings import Settings, read_settings
from mlops_fraud.training.train import train

COSTS = Costs(2_000.0, 20_000.0)
PARAMS = {"max_depth": 5, "learning_rate": 0.1, "min_child_weight": 1.0}
SEED = 7
BLOCK = 512


def settings_in(folder: Path, **changes: object) -> Settings:
    "The project's settings with registry, log and history in `folder`."
    own = {
        "mlflow_tracking_uri": f"sqlite:///{folder}/mlflow.db",
        "ledger": str(folder / "ledger.sqlite"),
        "history": str(folder / "history.parquet"),
    }
    return read_settings(**{**own, **changes})


def learned(events: pl.DataFrame, folder: Path, chosen: Settings, max_trees: int = 150, costs: Costs = COSTS) -> str:
    "Learn from `events`, register what came of it with its metrics and its reference, and let it answer. Returns the version."
    source, rows = folder / "learned.parquet", folder / "rows.parquet"
    events.write_parquet(source)
    preprocess(source, rows, label_delay=chosen.label_maturity)
    validation, test = read_rows(rows, "validation"), read_rows(rows, "test")
    model = train(PARAMS, read_rows(rows, "train"), validation, costs, max_trees, genuine_rows=60_000, seed=SEED)
    version = registry.register(model, test.x[:5], judged(model, validation, test), chosen)
    reference_rows(rows, model.names).write_parquet(folder / REFERENCE)
    registry.attach(version, folder / REFERENCE, chosen)
    registry.promote(version, chosen)
    return version


def judged(model: Model, validation, test) -> dict[str, float]:
    "The metrics of `model` on the test period."
    probability = model.probability(test.x)
    found = examine(test, probability, choose_levels(validation, model.probability(validation.x)), 20, SEED)
    return summary(test, probability, found, model.description.thresholds, COSTS)


def decided(scorer: Scorer, events: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    "Let `scorer` decide on `events` and log them. Yields each day and its events, with `transaction_id` and `decision`, when it is over."
    named = events.with_columns(transaction_id=pl.format("day-{}-{}", pl.col("step") // 24, pl.int_range(pl.len())))
    for (day,), part in named.group_by(pl.col("step") // 24, maintain_order=True):
        rows = part.select("transaction_id", *COLUMNS).iter_rows(named=True)
        transactions = [TransactionRequest.model_construct(**row) for row in rows]
        made: list[str] = []
        for start in range(0, len(transactions), BLOCK):
            entries = scorer.decide_each(transactions[start : start + BLOCK])
            made += [entry.decision for entry in entries if isinstance(entry, Entry)]
            scorer.flush()
        yield day, part.with_columns(pl.Series("decision", made))


def label(ledger: Ledger, day: pl.DataFrame) -> None:
    "What analysts find in the alerts of a `day`, and what customers complain of."
    for row in day.filter((pl.col("decision") != "approve") | (pl.col("isFraud") == 1)).iter_rows(named=True):
        ledger.give_feedback(row["transaction_id"], bool(row["isFraud"]), "analyst" if row["decision"] != "approve" else "customer")
