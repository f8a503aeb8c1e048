"""Each declared feature against something slower and obvious that shares no code with the kernel."""

import math
from itertools import takewhile

import numpy as np
import polars as pl
import pytest

from mlops_fraud.data.simulator import simulated
from mlops_fraud.features import AMOUNT_CAP, EVER, FEATURES, NAMES, PAIRED, THIS_STEP, Feature
from mlops_fraud.state import OutOfOrder, State

N = 1_500


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    "A busy little world: few recipients and few amounts, so that every memory is used."
    rng = np.random.default_rng(7)
    base = simulated(N, seed=3).with_columns(step=pl.Series(np.sort(rng.integers(1, 60, N))).cast(pl.Int32))
    return base.with_columns(
        nameDest=pl.Series([f"C{i}" for i in rng.integers(0, 40, N)]),
        amount=pl.Series(rng.choice([0.0, 10.5, 177.0, 181.0, 183.0, 187.0, 9e6, 123_456.78], N)),
        type=pl.Series(rng.choice(["CASH_IN", "CASH_OUT", "DEBIT", "PAYMENT", "TRANSFER"], N)),
    )


def band(amount: float) -> int:
    "The largest power of 1.05 that is at most `amount`; nothing lies below one."
    return int(np.searchsorted(1.05 ** np.arange(400), max(amount, 1.0), side="right")) - 1


def is_paired(past: list[dict], now: dict) -> bool:
    "Whether `now` cashes out exactly what was transferred in its hour."
    return now["type"] == "CASH_OUT" and any(
        e["type"] == "TRANSFER" and (e["step"], e["amount"]) == (now["step"], now["amount"]) for e in past
    )


def capped(event: dict) -> float:
    return min(event["amount"], AMOUNT_CAP)


def naive(feature: Feature, past: list[dict], now: dict) -> float:
    "The feature of `now`, by looking through all of its past."
    if feature.entity == "event":
        return {"amount": capped(now), "hour_of_day": now["step"] % 24, "is": float(now["type"] in feature.of)}[feature.statistic]
    if now["type"] not in feature.asked:
        return math.nan
    lower = 1.05 ** band(now["amount"])
    same = {
        "recipient": lambda e: e["nameDest"] == now["nameDest"],
        "amount": lambda e: e["amount"] == now["amount"],
        "near": lambda e: lower <= max(e["amount"], 1) < lower * 1.05,
        "above": lambda e: lower <= max(e["amount"], 1) / (1.05 if now["type"] != "TRANSFER" else 1) < lower * 1.05,
        "type": lambda e: e["type"] == now["type"],
        "traffic": lambda e: True,
    }
    if feature.statistic == "follows":
        just_before = [e for e in past[-1:] if feature.window == EVER or e["step"] == now["step"]]
        return float(any(e["type"] in feature.of for e in just_before))
    if feature.statistic == "run":
        in_hour = [e["type"] for e in past if feature.window == EVER or e["step"] == now["step"]]
        return float(len(list(takewhile(lambda kind: kind == in_hour[-1], reversed(in_hour)))))
    if PAIRED in feature.of:
        seen = [e for e in past if e["paired"]]
    else:
        seen = [e for e in past if same[feature.entity](e) and e["type"] in feature.of]

    def weight(event: dict) -> float:
        age = now["step"] - event["step"]
        if feature.window == THIS_STEP:
            return float(age == 0)
        return 1.0 if feature.window == EVER else 0.5 ** (age / feature.window)

    count, total = sum(map(weight, seen)), sum(weight(e) * capped(e) for e in seen)
    match feature.statistic:
        case "count":
            return count
        case "sum":
            return total
        case "ratio_to_mean":
            return capped(now) / (total / count) if total else math.nan
        case "ratio_to_max":
            largest = max((capped(e) for e in seen if weight(e)), default=0)
            return capped(now) / largest if largest else math.nan
        case "ratio_to_last":
            last = next((capped(e) for e in reversed(seen) if weight(e)), 0)
            return capped(now) / last if last else math.nan
        case "z_score":
            return z_score(math.log1p(capped(now)), [math.log1p(capped(e)) for e in seen], [weight(e) for e in seen])
        case "level":
            return count / (1 + sum(0.5 ** ((now["step"] - e["step"]) / 24) for e in past if same[feature.entity](e)))
        case "hours_since_last":
            return now["step"] - seen[-1]["step"] if seen else math.nan
        case "hours_since_first":
            return now["step"] - seen[0]["step"] if seen else math.nan
    raise AssertionError(f"no oracle for {feature.statistic}")


def z_score(x: float, values: list[float], weights: list[float]) -> float:
    "Standard deviations of `x` above the weighted mean of `values`."
    if sum(weights) < 2:
        return math.nan
    mean = np.average(values, weights=weights)
    return (x - mean) / math.sqrt(max(np.average((np.array(values) - mean) ** 2, weights=weights), 1e-4))


@pytest.fixture(scope="module")
def rows(events: pl.DataFrame) -> np.ndarray:
    return State().fold(events)


@pytest.mark.parametrize("feature", FEATURES, ids=NAMES)
def test_the_kernel_says_what_looking_through_the_past_says(feature: Feature, events: pl.DataFrame, rows: np.ndarray) -> None:
    history = events.to_dicts()
    for i, event in enumerate(history):
        event["paired"] = is_paired(history[:i], event)
    expected = [naive(feature, history[:i], history[i]) for i in range(N)]
    np.testing.assert_allclose(rows[:, FEATURES.index(feature)], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("feature", FEATURES, ids=NAMES)
def test_nothing_later_changes_a_feature(feature: Feature, events: pl.DataFrame, rows: np.ndarray) -> None:
    column = FEATURES.index(feature)
    for cut in (1, 500, 1_234):
        np.testing.assert_array_equal(State().fold(events[:cut])[:, column], rows[:cut, column])


@pytest.mark.parametrize("feature", FEATURES, ids=NAMES)
def test_every_feature_varies(feature: Feature, rows: np.ndarray) -> None:
    assert len(np.unique(rows[:, FEATURES.index(feature)])) > 1


def test_blocks_of_any_size_give_the_same_rows(events: pl.DataFrame, rows: np.ndarray) -> None:
    state = State()
    cuts = [0, 1, 2, 700, 701, N]
    parts = [state.fold(events[a:b]) for a, b in zip(cuts, cuts[1:])]
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_folding_leaves_the_events_as_they_were(events: pl.DataFrame) -> None:
    before = events.clone()
    State().fold(events)
    assert events.equals(before)


def test_the_memory_grows_with_entities_not_with_events(events: pl.DataFrame) -> None:
    state = State()
    for _ in range(5):
        state.fold(events.with_columns(step=pl.lit(99, pl.Int32)))
    n_bands = len({band(amount) for amount in events["amount"].unique()})
    # recipients, amounts that were transferred (twice as bands), types, the traffic
    assert state.memory.size[0] == 40 + 8 + 2 * n_bands + 5 + 1


def test_an_event_out_of_order_changes_nothing(events: pl.DataFrame) -> None:
    state = State()
    state.fold(events[:100])
    before = state.memory.rows[: state.memory.size[0]].copy()
    with pytest.raises(OutOfOrder, match="is before step"):
        state.fold(events[:1].with_columns(step=pl.lit(0, pl.Int32)))
    np.testing.assert_array_equal(state.memory.rows[: state.memory.size[0]], before)
