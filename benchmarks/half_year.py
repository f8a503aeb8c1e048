"""Six months in some minutes: a half-year whose fraud changes twice, through the whole system.

    python benchmarks/half_year.py                  # reports/half_year.md and its figures
    python benchmarks/half_year.py --days 60 --per-day 400 --out data/live/small

Each simulated day goes through a running API; labels come late, through the API as well. The monitor judges each day.
When it says that performance fell, a retraining begins: pipeline, gate, challenger, two days in the shadow, promotion;
and again some days later while the alarm lasts, since the newest fraud is rare at first. Beside it stands what the
first model would have decided on the same log, had nobody retrained it.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from operations import learned, settings_in
from pipeline import table
from world import free_port

from mlops_fraud import registry
from mlops_fraud.backtest import Candidate, decide, features_then
from mlops_fraud.data.simulator import PAYSIM, Scenario, simulated_days
from mlops_fraud.decisions import Costs
from mlops_fraud.deployment.local import Server, running
from mlops_fraud.labels import read_decisions
from mlops_fraud.ledger import Ledger
from mlops_fraud.monitoring import AlarmLog, Watch, watched
from mlops_fraud.retraining import Stopped, Waiting, open_run, retrain
from mlops_fraud.schemas import COLUMNS
from mlops_fraud.settings import Settings, project_root

LEARNED = 45  # days that the first model is made of
SHARE = 0.005  # of fraud: four times PaySim's, so that a small half-year has enough of it
WAIT = {"analyst": 1, "customer": 2}  # days until a label comes
AGAIN = 10  # days until the next retraining while the alarm lasts
SHARED = Scenario(commission=0.01, wait=24, pool=3)  # thieves keep a share, wait, and several victims pay one mule
HIDDEN = Scenario(commission=0.05, wait=48, pool=3, aged=True, modest=True)  # and use old accounts and ordinary sums
# There is time for three reviews an hour, which is 6 % of 1,200 transactions a day; and with so much fraud, a false block
# must cost what an ordinary transaction is worth, or the cheapest would be to block half of the customers.
COSTS = Costs(review=2_000.0, false_block=200_000.0, reviews_per_hour=3.0)
SEED = 7


class Told(NamedTuple):
    "Something that happened on a day."

    day: int
    what: str  # change, noticed, over, refused, challenger, answers
    words: str


class Year:
    "The system, day by day."

    def __init__(self, chosen: Settings, url: str, truth: pl.DataFrame):
        self.chosen, self.url, self.truth = chosen, url, truth
        self.client = httpx.Client(base_url=url, timeout=120)
        self.alarms = AlarmLog(chosen.live / "alarms.jsonl")
        self.watch = Watch.over(chosen)
        self.told: list[Told] = []
        self.due: dict[int, list[dict[str, Any]]] = {}
        self.run: Any = None  # the retraining under way
        self.tried = -AGAIN  # the day of the last one

    def tell(self, day: int, what: str, words: str) -> None:
        self.told.append(Told(day, what, words))
        print(f"day {day}: {what}: {words}", flush=True)

    def send(self, day: int, events: pl.DataFrame) -> None:
        "Send the transactions of a `day`, and put their labels on the calendar."
        body = events.select("transaction_id", *COLUMNS).write_ndjson().encode()
        answer = self.client.post("/predict/batch", content=body, headers={"content-type": "application/x-ndjson"})
        decisions = [json.loads(line).get("decision") for line in answer.text.splitlines()]
        assert None not in decisions, answer.text[:500]
        for tx, fraud, decision in zip(events["transaction_id"], events["isFraud"], decisions):
            if decision != "approve" or fraud:
                by = "customer" if decision == "approve" else "analyst"
                self.due.setdefault(day + WAIT[by], []).append({"transaction_id": tx, "fraud": bool(fraud), "by": by})
        for label in self.due.pop(day, []):
            self.client.post("/feedback", json=label).raise_for_status()

    def judge(self, day: int) -> None:
        "Let the monitor judge the days up to the one before `day`."
        ledger = Ledger.of(self.chosen)
        seen = watched(ledger, self.watch.version, 24 * max(day - 36, 0))
        ledger.close()
        for past in (past for past in seen.whole_days if past > self.alarms.judged):
            before = set(self.alarms.lasting)
            for alarm in self.alarms.judge(past, self.watch.day(seen, past)):
                self.tell(past, "noticed", f"{alarm['kind']}: {alarm['reason'].split(';')[0]}")
            for kind in before - set(self.alarms.lasting):
                self.tell(past, "over", kind)

    def retrain(self, day: int) -> None:
        "Begin a retraining if performance fell, and go on with the one under way."
        if self.run is None and "performance" in self.alarms.lasting and day - self.tried >= AGAIN:
            self.run, self.tried = open_run(self.chosen, 24 * day + 23), day
            costs = {"review_cost": COSTS.review, "false_block_cost": COSTS.false_block, "reviews_per_hour": COSTS.reviews_per_hour}
            self.run.params["shared"] |= costs
        if self.run is None:
            return
        try:
            retrain(self.run)
        except Waiting:
            if self.tried == day:
                self.tell(day, "challenger", f"version {self.run.done['register']['version']} follows in the shadow")
            return
        except Stopped as reason:
            self.tell(day, "refused", str(reason).splitlines()[0])
        else:
            version = self.run.done["promote"]["version"]
            while self.client.get("/model").json()["model"]["version"] != version:
                time.sleep(0.2)
            self.watch = Watch.over(self.chosen)
            self.tell(day, "answers", f"version {version}")
        self.run = None


def lived(folder: Path, days: int, per_day: int, changes: dict[int, Scenario]) -> tuple[Year, pl.DataFrame]:
    "Live through the half-year. Returns it, and its decisions with the truth and with what the first model would have decided."
    events = simulated_days(per_day * (LEARNED + days), LEARNED + days, SEED, {0: PAYSIM, **changes}, SHARE)
    events = events.with_columns(transaction_id=pl.format("t{}", pl.int_range(pl.len())))
    chosen = settings_in(folder, rules="", label_maturity=72)
    before = events.filter(pl.col("step") < 24 * LEARNED)
    before.drop("transaction_id").write_parquet(folder / "history.parquet")
    learned(before.drop("transaction_id"), folder, chosen, costs=COSTS)
    port = free_port()
    own = {
        "MLFLOW_TRACKING_URI": chosen.tracking_uri,
        "LEDGER": chosen.ledger,
        "HISTORY": chosen.history,
        "RULES": "",
        "FOLLOW_SECONDS": "1",
    }
    command = [sys.executable, "-m", "uvicorn", "mlops_fraud.deployment.api:app", "--port", str(port), "--log-level", "warning"]
    server = Server("API", ["env", *(f"{k}={v}" for k, v in own.items()), *command], f"http://127.0.0.1:{port}", "/readyz")
    with running([server], folder / "logs", project_root()):
        year = Year(chosen, server.url, events)
        for day, scenario in changes.items():
            year.told.append(Told(day, "change", str(scenario)))
        for (day,), part in events.filter(pl.col("step") >= 24 * LEARNED).group_by(pl.col("step") // 24, maintain_order=True):
            year.send(int(day), part)
            year.judge(int(day))
            year.retrain(int(day))
    ledger, history = Ledger.of(chosen), chosen.past
    decisions = read_decisions(ledger)
    first = registry.load(chosen, "1")
    x = features_then(first.model, decisions, ledger, history)
    ledger.close()
    never = decide(Candidate("never", first.model, first.model.description.thresholds), decisions, x)
    truth = events.select("transaction_id", fraud=pl.col("isFraud") == 1)
    return year, decisions.drop("fraud").with_columns(pl.Series("never", never.decision)).join(
        truth, on="transaction_id", maintain_order="left"
    )


def cost_of(decisions: pl.DataFrame, column: str) -> np.ndarray:
    "What each decision in `column` cost, float64 (n,)."
    fraud, amount, decided = (decisions[name].to_numpy() for name in ("fraud", "amount", column))
    lost = amount * (fraud & (decided == "approve"))
    return lost + COSTS.review * (decided == "review") + COSTS.false_block * ((decided == "block") & ~fraud)


def by_day(decisions: pl.DataFrame) -> pl.DataFrame:
    "Cost and frauds caught of each day, retrained and never."
    told = decisions.with_columns(
        day=pl.col("step") // 24,
        retrained=pl.Series(cost_of(decisions, "decision")),
        never_retrained=pl.Series(cost_of(decisions, "never")),
    )
    caught = [(pl.col("fraud") & (pl.col(name) != "approve")).sum().alias(f"caught_{name}") for name in ("decision", "never")]
    return told.group_by("day", maintain_order=True).agg(pl.col("retrained", "never_retrained").sum(), pl.col("fraud").sum(), *caught)


def rolling(daily: pl.DataFrame, name: str) -> np.ndarray:
    "Share of the frauds of seven days that alerted, by their last day."
    caught, frauds = (daily[of].rolling_sum(7, min_samples=1).to_numpy() for of in (name, "fraud"))
    return caught / np.maximum(frauds, 1)


def plot(year: Year, daily: pl.DataFrame, folder: Path) -> None:
    "Costs and frauds caught over time, into two PNG files."
    folder.mkdir(parents=True, exist_ok=True)
    colours = {"change": "#D55E00", "noticed": "#E69F00", "answers": "#009E73"}
    series = {
        "caught": ("share of the frauds of seven days that alerted", rolling(daily, "caught_decision"), rolling(daily, "caught_never")),
        "cost": ("cost so far", daily["retrained"].cum_sum().to_numpy(), daily["never_retrained"].cum_sum().to_numpy()),
    }
    for name, (label, live, never) in series.items():
        fig, ax = plt.subplots(figsize=(9, 3.4), layout="constrained")
        ax.plot(daily["day"], never, color="#999999", label="never retrained")
        ax.plot(daily["day"], live, color="#0072B2", label="retrained")
        for what, colour in colours.items():
            told = [t.day for t in year.told if t.what == what and (what != "noticed" or t.words.startswith("performance"))]
            for i, day in enumerate(told):
                ax.axvline(
                    day,
                    color=colour,
                    ls="-" if what == "change" else ":",
                    label={"change": "fraud changes", "noticed": "noticed", "answers": "a new version answers"}[what] if i == 0 else None,
                )
        ax.set(xlabel="day", ylabel=label, ylim=(0, None))
        fig.legend(loc="outside upper center", ncols=5, frameon=False)
        fig.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
        plt.close(fig)


def drifts(year: Year, daily: pl.DataFrame, changes: dict[int, Scenario]) -> list[list[str]]:
    "For each change: when it was noticed, when a new version answered, and when as many frauds were caught as before."
    days, caught = daily["day"].to_numpy(), rolling(daily, "caught_decision")
    lines = []
    for day, end in zip(changes, [*list(changes)[1:], int(days[-1]) + 1]):
        noticed = next((t.day for t in year.told if t.what == "noticed" and t.words.startswith("performance") and day <= t.day < end), None)
        versions = [t for t in year.told if t.what == "answers" and day <= t.day < end]
        usual = caught[(days >= day - 21) & (days < day)].mean()
        worst = caught[(days >= day) & (days < end)].min()
        fell = [d for d, c in zip(days, caught) if day <= d < end and c < 0.9 * usual]
        back = next(
            (d for d, c in zip(days, caught) if fell and fell[0] < d < end and c >= 0.9 * usual and versions and d >= versions[0].day), None
        )
        shown = [f"{t.words} on day {t.day}" for t in versions]
        lines.append([str(day), f"day {noticed}, after {noticed - day + 1} days" if noticed is not None else "no",
                      f"{usual:.0%}, then {worst:.0%} at worst", ", ".join(shown) or "-", f"day {back}" if back is not None else "no"])  # fmt: skip
    return lines


def report(year: Year, daily: pl.DataFrame, changes: dict[int, Scenario], per_day: int, minutes: float) -> str:
    "The report, in Markdown."
    cost, never = (float(daily[name].to_numpy().sum()) for name in ("retrained", "never_retrained"))
    frauds, caught, without = (int(daily[name].sum()) for name in ("fraud", "caught_decision", "caught_never"))
    story = [[str(t.day), t.what, t.words] for t in sorted(year.told, key=lambda t: t.day)]
    return "\n\n".join([
        "# Half a year\n\n> A half-year whose fraud changes twice, through the whole system; and the same half-year with a model that nobody retrained.",
        f"{daily.height} days with {per_day:,} transactions each, {SHARE:.1%} of them fraud, went through a running API after {LEARNED} days that the first model was made of; analysts label an alert after a day, customers complain after two, and labels count after three; there is time for {COSTS.reviews_per_hour:.0f} reviews an hour. A review costs {COSTS.review:,.0f}, a false block {COSTS.false_block:,.0f}, a missed fraud its amount. That took {minutes:.1f} minutes. `python benchmarks/half_year.py` makes this page anew.",
        table(" | cost | frauds caught", [["retrained", f"{cost:,.0f}", f"{caught:,} of {frauds:,}"], ["never retrained", f"{never:,.0f}", f"{without:,} of {frauds:,}"]]),
        f"Not retraining cost {never - cost:,.0f} more, {never / max(cost, 1):.1f} times as much.",
        "## The two changes",
        table("fraud changes on day | noticed | caught in a week | new versions | as good as before (nine tenths of it)", drifts(year, daily, changes)),
        "![frauds caught](figures/half_year/caught.png)\n\n![cost](figures/half_year/cost.png)",
        "## What happened",
        table("day | what | ", story),
    ]) + "\n"  # fmt: skip


def main() -> None:
    "Live the half-year that the command line asks for; see --help."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=182)
    parser.add_argument("--per-day", type=int, default=1_200, help="transactions of a day, on average")
    parser.add_argument("--out", type=Path, default=project_root() / "reports")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the server ends, too
    os.environ["OMP_NUM_THREADS"] = "2"
    began = time.perf_counter()
    changes = {LEARNED + given.days // 3: SHARED, LEARNED + 2 * given.days // 3: HIDDEN}
    with TemporaryDirectory() as folder:
        year, decisions = lived(Path(folder), given.days, given.per_day, changes)
    daily = by_day(decisions)
    plot(year, daily, given.out / "figures/half_year")
    (given.out / "half_year.md").write_text(report(year, daily, changes, given.per_day, (time.perf_counter() - began) / 60))


if __name__ == "__main__":
    main()
