"""How long until the monitor finds what is wrong, and how often it cries wolf: faults injected into replayed months.

    python benchmarks/faults.py                     # all faults and three quiet months: reports/faults.md
    python benchmarks/faults.py --per-day 500       # smaller

A model is made of 45 steady days. Then 30 more days pass through the scorer into the log, the fault setting in on the
eleventh, with the labels of alerts and of frauds a day late. The monitor judges each day when it is over.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl
from operations import decided, label, learned, settings_in
from pipeline import table

from mlops_fraud.data.simulator import HARD, PAYSIM, Scenario, simulated_days
from mlops_fraud.monitoring import AlarmLog, Watch, watched
from mlops_fraud.scoring import Scorer
from mlops_fraud.settings import project_root

LEARNED, LIVE, ONSET = 45, 30, 10  # days; the fault sets in on this one of the live days
Change = Callable[[pl.DataFrame, pl.Expr], pl.DataFrame]  # of the events after the onset, given how many days ago it was


class Fault(NamedTuple):
    "Something that goes wrong."

    name: str
    change: Change = lambda events, days: events
    fraud: Scenario = PAYSIM  # how thieves behave once it sets in
    found_by: str = ""  # the kind of alarm that should find it


def times(factor: pl.Expr | float) -> Callable[[pl.DataFrame], pl.DataFrame]:
    "All amounts times `factor`, in whole cents, and never above what a request may hold."
    return lambda events: events.with_columns((pl.col("amount") * factor).round(2).clip(upper_bound=1e12))


FAULTS = (
    Fault("amounts in cents: times 100", lambda events, days: times(100.0)(events), found_by="inputs"),
    Fault("transfers stop", lambda events, days: events.filter(pl.col("type") != "TRANSFER"), found_by="traffic"),
    Fault("the rarest type stops (debit, 1 in 150)", lambda events, days: events.filter(pl.col("type") != "DEBIT"), found_by="traffic"),
    Fault(
        "every recipient is the same: a broken upstream", lambda events, days: events.with_columns(nameDest=pl.lit("C0")), found_by="inputs"
    ),
    Fault("every amount is 1,000: a broken upstream", lambda events, days: events.with_columns(amount=pl.lit(1000.0)), found_by="inputs"),
    Fault("a slow shift: amounts grow by 5 % a day", lambda events, days: times(1.05**days)(events), found_by="inputs"),
    Fault("a new fraud pattern: thieves wait, share and use old accounts", fraud=HARD, found_by="performance"),
)


class Outcome(NamedTuple):
    "What the monitor made of a month."

    alarms: list[dict]  # as raised
    false_alarms: int  # before the onset
    delay: int | None  # whole days from the onset until the first alarm; None: not found
    first: str  # its kind and reason


def month(folder: Path, events: pl.DataFrame, fault: Fault, number: int) -> list[dict]:
    "The alarms of the live days of `events` with the `fault`, in a registry that holds the model."
    chosen = settings_in(folder, ledger=str(folder / f"ledger-{number}.sqlite"), rules="")
    start = 24 * (LEARNED + ONSET)
    live = events.filter(pl.col("step") >= 24 * LEARNED)
    before, after = live.filter(pl.col("step") < start), live.filter(pl.col("step") >= start)
    changed = fault.change(after, (pl.col("step") - start) / 24)
    scorer, alarms = Scorer.load(chosen), AlarmLog(folder / f"alarms-{number}.jsonl")
    for _, day in decided(scorer, pl.concat([before, changed])):
        label(scorer.ledger, day)
    watch = Watch.over(chosen)
    seen = watched(scorer.ledger, watch.version)
    raised = [alarm for day in seen.whole_days for alarm in alarms.judge(day, watch.day(seen, day))]
    scorer.ledger.close()
    return raised


def outcome(raised: list[dict]) -> Outcome:
    "What to say of the alarms that were `raised`."
    start = LEARNED + ONSET
    after = [alarm for alarm in raised if alarm["day"] >= start]
    first = min(after, key=lambda alarm: alarm["day"], default=None)
    words = f"{first['kind']}: {first['reason']}" if first else ""
    return Outcome(raised, sum(alarm["day"] < start for alarm in raised), first["day"] - start + 1 if first else None, words)


def main() -> None:
    "Measure what the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-day", type=int, default=2_000, help="transactions of a day, on average")
    parser.add_argument("--quiet", type=int, default=6, help="months in which nothing is wrong, each of a world of its own")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=project_root() / "reports/faults.md")
    given = parser.parse_args()
    n, days = given.per_day * (LEARNED + LIVE), LEARNED + LIVE
    lines, quiet = [], []
    for number in range(max(given.quiet, 1)):
        with TemporaryDirectory() as temporary:
            folder, seed = Path(temporary), given.seed + number
            usual = simulated_days(n, days, seed, {0: PAYSIM})
            history = usual.filter(pl.col("step") < 24 * LEARNED)
            history.write_parquet(folder / "history.parquet")
            learned(history, folder, settings_in(folder))
            quiet.append(month(folder, usual, Fault("nothing"), 0))
            print(f"quiet month {number + 1}: {[alarm['reason'] for alarm in quiet[-1]]}", flush=True)
            for i, fault in enumerate(FAULTS if number == 0 else (), 1):
                # The same world up to the onset: thieves draw from it only once they behave otherwise.
                events = simulated_days(n, days, seed, {0: PAYSIM, LEARNED + ONSET: fault.fraud})
                found = outcome(month(folder, events, fault, i))
                delay = "not found" if found.delay is None else f"{found.delay} day{'s' if found.delay > 1 else ''}"
                lines.append([fault.name, delay, found.first, str(found.false_alarms)])
                print(" | ".join(lines[-1]), flush=True)
    given.out.write_text(report(given.per_day, lines, quiet))


def report(per_day: int, lines: list[list[str]], quiet: list[list[dict]]) -> str:
    "The report, in Markdown."
    said = [
        [str(i), str(len(alarms)), "; ".join(f"{a['kind']}: {a['reason']}" for a in alarms) or "-"] for i, alarms in enumerate(quiet, 1)
    ]
    return "\n\n".join([
        "# Faults\n\n> How long until the monitor finds what is wrong, and how often it cries wolf.",
        f"A model was made of {LEARNED} simulated days with {per_day:,} transactions each. Then {LIVE} more days passed through the scorer into the log; on live day {ONSET + 1} a fault set in. The monitor judges a day when it is over, so a fault that is found in its first day is found after one. Labels come a day late. `python benchmarks/faults.py` makes this page anew.",
        table("fault | found after | first alarm | false alarms in the ten days before", lines),
        f"## Quiet months\n\n{len(quiet)} worlds of {LIVE} days in which nothing is wrong:",
        table("month | false alarms | which", said),
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    main()
