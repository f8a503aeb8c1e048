"""Twelve of the features as one would write them with pandas: the yardstick of `pipeline.py`, and a check of it.

Every column is a grouped cumulative operation, none a loop or an `apply`. Fading sums use that 0.5 ** (age / h) is
a quotient of two powers, so that a plain cumulative sum does for all rows of a group. This needs the whole table in
memory and leaves nothing behind that could score the next event.
"""

import numpy as np
import pandas as pd

from mlops_fraud.features import AMOUNT_CAP, FEATURES

HALF_LIFE = 24.0  # hours
NAMES = (
    "event_amount",
    "event_is_transfer",
    "event_is_cash_out",
    "event_hour_of_day",
    "recipient_count",
    "recipient_sum_24h",
    "recipient_hours_since_last",
    "recipient_hours_since_first",
    "amount_transfer_hours_since_last",
    "amount_transfer_count_24h",
    "traffic_count_this_step",
    "traffic_cash_out_transfer_ratio_to_mean_this_step",
)
COMPARED = tuple(feature for feature in FEATURES if feature.name in NAMES)  # in the same order


def pandas_features(events: pd.DataFrame) -> pd.DataFrame:
    "Features of each of `events` (in time order) from the rows before it, float32, one column each of `NAMES`."
    step, amount = events["step"].astype("float64"), events["amount"]
    transfer, cash_out = events["type"] == "TRANSFER", events["type"] == "CASH_OUT"
    growth = 2.0 ** ((step - step.iloc[0]) / HALF_LIFE)
    by_recipient, by_hour = pd.factorize(events["nameDest"])[0], pd.factorize(step)[0]
    by_amount = pd.factorize((amount * 100).round())[0]
    amount = amount.clip(upper=AMOUNT_CAP)

    def before(values: pd.Series, by: np.ndarray) -> pd.Series:
        "The sum of `values` in the earlier rows of the same group."
        return values.groupby(by).cumsum().groupby(by).shift(fill_value=0.0)

    def last_before(values: pd.Series, by: np.ndarray) -> pd.Series:
        "The last of `values` that is not missing, in the earlier rows of the same group."
        return values.groupby(by).ffill().groupby(by).shift()

    known = step.groupby(by_recipient)
    compared = amount.where(transfer | cash_out, 0.0)
    usual = before(compared, by_hour) / before((transfer | cash_out).astype("float64"), by_hour)
    columns: tuple[pd.Series, ...] = (
        amount,
        transfer,
        cash_out,
        step % 24,
        known.cumcount(),
        before(amount * growth, by_recipient) / growth,
        step - known.shift(),
        (step - known.transform("first")).where(known.cumcount() > 0),
        (step - last_before(step.where(transfer), by_amount)).where(cash_out),
        (before(growth.where(transfer, 0.0), by_amount) / growth).where(cash_out),
        step.groupby(by_hour).cumcount(),
        (amount / usual).where(usual > 0),
    )
    return pd.DataFrame({name: column.to_numpy(np.float32) for name, column in zip(NAMES, columns)})


def largest_difference(theirs: pd.DataFrame, ours: np.ndarray) -> float:
    "The largest relative difference between two tables of features; infinite where only one has a value."
    a, b = theirs.to_numpy(np.float64), ours.astype(np.float64)
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    return float(np.nanmax(np.abs(a - b) / np.maximum(np.abs(b), 1e-6)))
