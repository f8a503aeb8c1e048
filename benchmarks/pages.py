"""The app on a long log: time to first content of each page, and to the answer of each filter, in a real browser.

    make bench-app ARGS="--decisions 100000"

The log is filled with what the scorer decided, over and over, some alerts are labelled, and a browser is the clock: from the click to the moment when
what was asked for stands on the page. Each figure is the median of some visits; the first visit, which also loads code, is told apart.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import batched, islice
from pathlib import Path

import httpx
from pipeline import table
from playwright.sync_api import Page, expect, sync_playwright
from world import World, prepare, register

from mlops_fraud import casework
from mlops_fraud.casework import Casework, Filter
from mlops_fraud.deployment.local import running, servers
from mlops_fraud.ledger import FIELDS, Ledger
from mlops_fraud.model import Calibration, Model
from mlops_fraud.schemas import Thresholds, TransactionRequest
from mlops_fraud.scoring import Scorer
from mlops_fraud.settings import project_root, read_settings
from mlops_fraud.state import State

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
LOG = "app.sqlite"
PORTS = {"API_PORT": "18810", "APP_PORT": "18811"}
TOGETHER = 512  # decisions with one wait for the disk
VISITS = 5
DECIDED = 50_000  # by the scorer
SHARE_LABELLED = 0.2  # of the alerts
REVIEW = 0.002  # low, so that the queue is long
CONTENT = {
    "live": "Decisions / s", "queue": "alerts pass the filters", "transaction": "chance of fraud", "score": "The past holds",
    "model": "Alerts a day", "monitor": "What the model says", "data": "What it says",
}  # fmt: skip


def with_a_long_queue(world: World) -> None:
    "Let the world's model hold much."
    model, limits = world.model, Thresholds(review=REVIEW, block=0.5)
    Model(model.booster, Calibration(), limits, costs=model.description.costs).save(world.folder / "model")


def fill(world: World, n: int) -> None:
    "`n` decisions in the log: the scorer makes as many as the world has transactions for, and each is there again as often as needed, later."
    ledger, rows = Ledger(world.folder / LOG), enumerate(world.after.iter_rows(named=True))
    scorer = Scorer(world.version, State(world.model.features), ledger)
    for some in batched(rows, TOGETHER):
        scorer.decide_each([TransactionRequest.model_validate({"transaction_id": f"t-{number}", **row}) for number, row in some])
        scorer.flush()
    again = ", ".join(
        f"step + {scorer.state.step + 1} * ?" if name == "step" else "transaction_id || '-' || ?" if name == "transaction_id" else name
        for name in FIELDS
    )
    work, made = Casework(ledger), len(ledger)
    for turn in range(1, n // made):
        ledger.connection.execute(
            f"INSERT INTO decisions ({', '.join(FIELDS)}, answered_at, seal) SELECT {again}, answered_at, seal FROM decisions WHERE sequence <= ?",
            (turn, turn, made),  # the log's seals are those of the originals: nobody verifies a copy
        )
    n_alerts = work.totals(Filter())["new"].n
    for fraud in (True, False):
        worst = work.alerts(Filter(status="new"), n=1 + int(n_alerts * SHARE_LABELLED / 2)).alerts
        casework.conclude(ledger, [alert.transaction_id for alert in worst], fraud, "Ada")
    ledger.close()


def cost_of_indexes(world: World) -> tuple[float, float]:
    "Microseconds that a decision takes to the disk, without and with the casework's indexes, on logs of what the scorer decided."
    ledger = Ledger(world.folder / LOG)
    entries = list(islice(ledger.entries(), 50_000))
    ledger.close()
    took = []
    for indexed in (False, True):
        ledger = Ledger(world.folder / f"cost-{indexed}.sqlite")
        if indexed:
            Casework(ledger)
        start = time.perf_counter()
        for some in batched(entries, 64):
            ledger.append(some)
        took.append(1e6 * (time.perf_counter() - start) / len(entries))
        ledger.close()
    return took[0], took[1]


def median(run: Callable[[], None]) -> tuple[float, float]:
    "Milliseconds of the first run and the median of the others."
    took = []
    for _ in range(1 + VISITS):
        start = time.perf_counter()
        run()
        took.append(1e3 * (time.perf_counter() - start))
    return took[0], statistics.median(took[1:])


def visits(page: Page, url: str, worst: str) -> dict[str, tuple[float, float]]:
    "Of each page: from the click in the sidebar (of a transaction, from its address) to its first content."

    def visit(name: str, says: str) -> None:
        if name == "transaction":
            page.goto(f"{url}/transaction?id={worst}")
        else:
            page.get_by_test_id("stSidebarNav").get_by_role("link", name=name.capitalize(), exact=True).click()
        expect(page.get_by_text(says).first).to_be_visible(timeout=120_000)

    page.goto(f"{url}/data")
    expect(page.get_by_text(CONTENT["data"]).first).to_be_visible(timeout=120_000)
    took: dict[str, list[float]] = {name: [] for name in CONTENT}
    for _ in range(1 + VISITS):  # round and round, so that each is come to from another
        for name, says in CONTENT.items():
            start = time.perf_counter()
            visit(name, says)
            took[name].append(1e3 * (time.perf_counter() - start))
    return {name: (first, statistics.median(others)) for name, (first, *others) in took.items()}


def filters(page: Page, url: str) -> dict[str, tuple[float, float]]:
    "Of each filter of the queue: from the last key or click to the caption that says what passes it."

    def anew(run: Callable[[], None]) -> tuple[float, float]:
        page.goto(f"{url}/queue")
        expect(page.get_by_text("alerts pass the filters")).to_be_visible(timeout=120_000)
        return median(run)

    def until_changed(act: Callable[[], None]) -> None:
        before = page.get_by_test_id("stMain").inner_text()
        act()
        page.wait_for_function("before => document.querySelector('[data-testid=stMain]').innerText !== before", arg=before, polling=5)
        page.wait_for_function("() => !document.querySelector('[data-stale=true]')", polling=5)

    amounts = iter(range(100_000, 10**7, 100_000))

    def choose(label: str, options: list[str]) -> Callable[[], None]:
        turns = iter(options * VISITS)

        def once() -> None:
            page.get_by_label(label).first.click()
            option = page.get_by_role("option", name=next(turns), exact=True)
            option.wait_for()
            until_changed(option.click)

        return once

    def type_amount() -> None:
        page.get_by_label("Amount from", exact=True).fill(str(next(amounts)))
        until_changed(lambda: page.keyboard.press("Enter"))

    states = iter(["fraud", "genuine", "new"] * VISITS)
    return {
        "type": anew(choose("Type", ["TRANSFER", "CASH_OUT"])),
        "decision": anew(choose("Decision", ["block", "review"])),
        "amount": anew(type_amount),
        "status": anew(lambda: until_changed(page.get_by_text(f"{next(states)} ·").click)),
        "next page": anew(lambda: until_changed(page.get_by_role("button", name="Next").click)),
    }


def asked(url: str, worst: str) -> dict[str, tuple[float, float]]:
    "Of each question to the API."
    recipient = httpx.get(f"{url}/desk/transactions/{worst}").json()["alert"]["recipient"]
    paths = [
        "live?minutes=10080",
        "alerts",
        "alerts?type=TRANSFER&at_least=100000",
        f"alerts?recipient={recipient}",
        f"transactions/{worst}",
        f"nearest/{worst}",
        "monitor",
        "reasons",
    ]

    def ask(path: str) -> None:
        assert httpx.get(f"{url}/desk/{path}", timeout=60).status_code == 200

    return {path.replace(worst, "{id}").replace(recipient, "{account}"): median(lambda path=path: ask(path)) for path in paths}  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--trees", type=int, default=300)
    given, root = parser.parse_args(), project_root()
    with tempfile.TemporaryDirectory() as temporary:
        world = prepare(Path(temporary), 50_000, min(given.decisions, DECIDED), given.trees)
        with_a_long_queue(world)
        os.environ.update(
            PORTS
            | {
                "MLFLOW_TRACKING_URI": f"sqlite:///{world.folder}/mlflow.db",
                "LEDGER": str(world.folder / LOG),
                "HISTORY": "",
                "FOLLOW_SECONDS": "0",
            }
        )
        register(world)
        fill(world, given.decisions)
        plain, indexed = cost_of_indexes(world)
        print(
            f"{given.decisions:,} decisions, {(world.folder / LOG).stat().st_size / 1e9:.2f} GB. To the disk, 64 at a time, a decision takes {plain:.0f} µs without the casework's indexes, {indexed:.0f} µs with them.",
            flush=True,
        )
        api, app, _ = servers(root, read_settings())
        with running([api, app], world.folder / "logs", root, patience=600), sync_playwright() as playwright:
            queue = httpx.get(f"{api.url}/desk/alerts", timeout=60).json()
            print(f"alerts by state: {', '.join(f'{of["n"]:,} {state}' for state, of in queue['totals'].items())}")
            worst = queue["alerts"][0]["transaction_id"]
            browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            for title, measure in (
                ("the API's answer", lambda: asked(api.url, worst)),
                ("page", lambda: visits(page, app.url, worst)),
                ("filter of the queue", lambda: filters(page, app.url)),
            ):
                print(
                    "\n"
                    + table(
                        f"{title} | first, ms | median of the next, ms",
                        [[name, f"{first:,.0f}", f"{then:,.0f}"] for name, (first, then) in measure().items()],
                    ),
                    flush=True,
                )
            browser.close()


if __name__ == "__main__":
    main()
