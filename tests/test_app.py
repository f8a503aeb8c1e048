"""The app as people meet it: in a real browser, against a running API with replayed transactions and labels."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import polars as pl
import pytest
from conftest import ROOT, Project, Serve, free_port, serving
from playwright.sync_api import Browser, Page, expect
from streamlit.testing.v1 import AppTest

from mlops_fraud import registry
from mlops_fraud.deployment.access import new_key
from mlops_fraud.deployment.local import Server, running
from mlops_fraud.schemas import COLUMNS
from mlops_fraud.settings import read_settings, settings

PAGES = ["live", "alerts", "transaction", "score", "model", "monitor", "data"]
HEADING = {"alerts": "Queue", "score": "Score a transaction"}
REPLAYED = 2_000
SOON = 60_000  # milliseconds


class Desk(NamedTuple):
    "A running API with keys, and the app in front of it."

    url: str
    app: str
    keys: dict[str, str]
    alerts: list[dict[str, Any]]

    def ask(self, path: str, **params: Any) -> Any:
        "What the API answers to the admin."
        return httpx.get(self.url + path, params=params, headers={"X-API-Key": self.keys["boss"]}).json()

    def say(self, action: str, by: str, ids: list[str], **more: Any) -> Any:
        "What the API answers to someone who acts."
        return httpx.post(f"{self.url}/desk/{action}", json={"transaction_ids": ids, **more}, headers={"X-API-Key": self.keys[by]}).json()


@pytest.fixture(scope="module")
def desk(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    "Replayed transactions, some labelled by an analyst who is not in any test."
    folder = tmp_path_factory.mktemp("desk")
    roles = {"boss": "admin", "ada": "analyst", "grace": "analyst", "mary": "analyst", "val": "viewer"}
    keys = {name: new_key(folder / "keys.txt", name, role) for name, role in roles.items()}
    environment = project.environment(LEDGER=str(folder / "ledger.sqlite"), KEYS=str(folder / "keys.txt"))
    with serving(environment, folder / "logs") as (url, _), app_in_front_of(url, folder) as app:
        events = project.events.tail(REPLAYED).select(COLUMNS)
        lines = "\n".join(json.dumps({"transaction_id": f"t-{i}", **row}) for i, row in enumerate(events.iter_rows(named=True)))
        headers = {"X-API-Key": keys["boss"], "content-type": "application/x-ndjson"}
        assert httpx.post(f"{url}/predict/batch", content=lines, headers=headers, timeout=60).status_code == 200
        desk = Desk(url, app, keys, httpx.get(f"{url}/desk/alerts", params={"n": 500}, headers=headers).json()["alerts"])
        for fraud, alert in zip((True, False), desk.alerts[-2:]):
            assert desk.say("conclude", "mary", [alert["transaction_id"]], fraud=fraud)["done"]
        yield desk


def app_in_front_of(url: str, folder: Path) -> Any:
    "The app against the API at `url`: enters as its address."
    port = free_port()
    command = ["env", f"API_PORT={url.rsplit(':', 1)[1]}", sys.executable, "-m", "streamlit", "run", "streamlit_app/app.py",
               "--server.port", str(port), "--server.headless", "true", "--browser.gatherUsageStats", "false"]  # fmt: skip
    return _address(Server("app", command, f"http://127.0.0.1:{port}", "/_stcore/health"), folder / "logs")


class _address:
    "`running`, entered as the server's address."

    def __init__(self, server: Server, logs: Path):
        self.server, self.run = server, running([server], logs, ROOT)

    def __enter__(self) -> str:
        self.run.__enter__()
        return self.server.url

    def __exit__(self, *reason: Any) -> None:
        self.run.__exit__(*reason)


# --- In the browser


@pytest.fixture
def sign_in(browser: Browser, desk: Desk) -> Iterator[Callable[..., Page]]:
    "A browser of its own for someone, signed in, on a page of the app."
    contexts = []

    def enter(name: str, path: str) -> Page:
        contexts.append(context := browser.new_context(viewport={"width": 1280, "height": 1000}))
        page = context.new_page()
        page.goto(f"{desk.app}/{path}")
        page.get_by_label("Your key", exact=True).fill(desk.keys[name], timeout=SOON)
        page.get_by_test_id("stFormSubmitButton").get_by_role("button").click()
        expect(page.get_by_text(f"{name} · ")).to_be_visible(timeout=SOON)
        return page

    yield enter
    for context in contexts:
        context.close()


def select_row(page: Page, row: int) -> None:
    "Click on the box before a row of the page's table, which is a canvas."
    table = page.get_by_test_id("stDataFrame").first
    expect(table).to_be_visible(timeout=SOON)
    page.wait_for_timeout(500)
    table.click(position={"x": 16, "y": 35 + 35 * row + 17})
    expect(page.get_by_text("1 selected")).to_be_visible(timeout=SOON)


def test_two_analysts_never_take_the_same_alert(desk: Desk, sign_in: Callable[..., Page]) -> None:
    worst = desk.alerts[0]["transaction_id"]
    ada, grace = sign_in("ada", "queue"), sign_in("grace", "queue")
    for page in (ada, grace):  # both see it as new, both select it
        select_row(page, 0)
    ada.keyboard.press("t")
    expect(ada.get_by_text(f"{worst} taken")).to_be_visible(timeout=SOON)
    grace.keyboard.press("t")
    expect(grace.get_by_text("ada has it in review")).to_be_visible(timeout=SOON)
    history = desk.ask(f"/desk/transactions/{worst}")["history"]
    assert [(step["action"], step["by"]) for step in history] == [("take", "ada")]


def test_a_finding_is_a_label_with_a_name_and_can_be_undone(desk: Desk, sign_in: Callable[..., Page]) -> None:
    page = sign_in("grace", "queue")
    select_row(page, 3)
    new = desk.ask("/desk/alerts", status="new")["alerts"][3]["transaction_id"]
    page.keyboard.press("f")
    expect(page.get_by_text(f"{new} labelled fraud")).to_be_visible(timeout=SOON)
    label = desk.ask(f"/decisions/{new}")["feedback"][-1]
    assert (label["fraud"], label["by"]) == (True, "grace")
    page.keyboard.press("u")
    expect(page.get_by_text(f"{new} undone")).to_be_visible(timeout=SOON)
    assert [label["fraud"] for label in desk.ask(f"/decisions/{new}")["feedback"]] == [True, None]


def test_a_selection_is_of_the_alerts_that_were_seen(desk: Desk, sign_in: Callable[..., Page]) -> None:
    page = sign_in("grace", "queue")
    expect(page.get_by_test_id("stDataFrame")).to_be_visible(timeout=SOON)
    first, second = (alert["transaction_id"] for alert in desk.ask("/desk/alerts", status="new")["alerts"][:2])
    assert desk.say("take", "ada", [first])["done"] == [first]  # the list that she sees is no longer the queue
    select_row(page, 1)
    page.keyboard.press("f")
    expect(page.get_by_text(f"{second} labelled fraud")).to_be_visible(timeout=SOON)
    assert desk.say("undo", "grace", [second])["done"] and desk.say("undo", "ada", [first])["done"]

    n = desk.ask("/desk/alerts", status="new", decision="block")["totals"]["new"]["n"]
    select_row(page, 4)
    page.get_by_role("combobox", name="Decision").click()
    page.get_by_role("option", name="block").click()
    expect(page.get_by_text(f"{n:,} alerts pass the filters")).to_be_visible(timeout=SOON)
    expect(page.get_by_text("selected, worth")).to_have_count(0)
    expect(page.get_by_text("encountered an error")).to_have_count(0)


def test_an_analyst_labels_in_no_other_name_and_who_runs_the_service_in_any(desk: Desk) -> None:
    def label(key: str, by: str) -> int:
        said = {"transaction_id": "t-0", "fraud": None, "by": by}
        return httpx.post(f"{desk.url}/feedback", json=said, headers={"X-API-Key": desk.keys[key]}).status_code

    assert [label("ada", "grace"), label("ada", "ada"), label("boss", "bank")] == [422, 200, 200]
    assert [each["by"] for each in desk.ask("/decisions/t-0")["feedback"]] == ["ada", "bank"]


def test_an_alert_is_found_by_its_amount_and_given_to_a_colleague(desk: Desk, sign_in: Callable[..., Page]) -> None:
    page = sign_in("grace", "queue")
    wanted = desk.ask("/desk/alerts", status="new")["alerts"][5]
    for label, amount in (("Amount from", wanted["amount"]), ("to", wanted["amount"])):
        page.get_by_label(label, exact=True).fill(f"{amount:.2f}")
        page.keyboard.press("Enter")
    expect(page.get_by_text("here 1 to")).to_be_visible(timeout=SOON)
    expected = desk.ask("/desk/alerts", status="new", at_least=wanted["amount"], at_most=wanted["amount"])["totals"]["new"]["n"]
    expect(page.get_by_text(f"{expected} alerts pass the filters")).to_be_visible(timeout=SOON)
    select_row(page, 0)
    page.get_by_role("button", name="Give to").click()
    page.get_by_label("Who shall have them").fill("ada")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Give", exact=True).click()
    expect(page.get_by_text("given to ada")).to_be_visible(timeout=SOON)
    given = desk.ask("/desk/alerts", status="in review", at_least=wanted["amount"], at_most=wanted["amount"])["alerts"]
    assert "ada" in {alert["assignee"] for alert in given}


def test_a_link_leads_to_a_transaction_and_what_would_change_it(desk: Desk, sign_in: Callable[..., Page]) -> None:
    second_leg = next(alert for alert in desk.alerts if alert["legs"] > 1 and alert["type"] == "CASH_OUT")
    page = sign_in("val", f"transaction?id={second_leg['transaction_id']}")
    expect(page.get_by_role("heading", name=f"CASH_OUT of {second_leg['amount']:,.2f}")).to_be_visible(timeout=SOON)
    expect(page.get_by_test_id("stImage").locator("img")).to_be_visible(timeout=SOON)
    expect(page.get_by_text("The role viewer may look").first).to_be_visible()
    expect(page.get_by_role("button", name="Take")).to_be_disabled()
    for part, shows in (
        ("What would change it", "Exact, not sampled"), ("Case and work", "A case of 2 legs"), ("Similar ones", "Whose reasons are most alike"),
        ("The recipient before", "recipient"), ("Record", "The request, as it came"),
    ):  # fmt: skip
        page.get_by_text(part, exact=True).click()
        expect(page.get_by_text(shows).last).to_be_visible(timeout=SOON)
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_a_name_is_no_link_and_no_other_site_is_asked(desk: Desk, browser: Browser, sign_in: Callable[..., Page]) -> None:
    hostile = {
        "nameOrig": "C1`[a](http://a.invalid)`",
        "nameDest": "![b](http://b.invalid/b.png)",
        "transaction_id": "`<img src=x>` $x$ :red[c]",
    }
    sent = {"step": desk.ask("/readyz")["step"], "type": "TRANSFER", "amount": 181.0, **hostile}
    assert httpx.post(f"{desk.url}/predict", json=sent, headers={"X-API-Key": desk.keys["boss"]}).status_code == 200
    page = sign_in("val", "transaction?id=" + quote(hostile["transaction_id"]))
    for name in ("nameOrig", "nameDest"):
        expect(page.locator("code", has_text=hostile[name]).first).to_be_visible(timeout=SOON)
    assert page.locator("a[href*=invalid], img[src*=invalid]").count() == 0
    asked: list[str] = []
    other = browser.new_context().new_page()
    other.on("request", lambda request: asked.append(request.url))
    other.goto(desk.app)
    expect(other.get_by_label("Your key", exact=True)).to_be_visible(timeout=SOON)
    other.wait_for_load_state("networkidle")
    assert asked and {url.split("/")[2] for url in asked if not url.startswith("data:")} == {desk.app.split("/")[2]}
    other.context.close()


def test_the_live_page_moves_by_itself(desk: Desk, sign_in: Callable[..., Page]) -> None:
    page = sign_in("val", "")
    expect(page.get_by_text("Open alerts")).to_be_visible(timeout=SOON)
    figures = page.get_by_test_id("stMetricValue")
    before = figures.all_inner_texts()
    payment = {"step": desk.ask("/readyz")["step"], "type": "PAYMENT", "amount": 7e9, "nameOrig": "C1", "nameDest": "M1"}
    answer = httpx.post(f"{desk.url}/predict", json=payment, headers={"X-API-Key": desk.keys["boss"]}).json()
    money = 1 + ["approve", "review", "block"].index(answer["decision"])
    expect(figures.nth(money)).not_to_have_text(before[money], timeout=SOON)


@pytest.mark.parametrize("path", ["", "queue", "transaction?id={}", "model", "monitor", "data", "score"])
def test_each_page_fits_a_phone(desk: Desk, sign_in: Callable[..., Page], path: str) -> None:
    page = sign_in("val", path.format(desk.alerts[0]["transaction_id"]))
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=SOON)
    page.wait_for_timeout(500)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= 390
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_a_key_that_nobody_has_opens_nothing(desk: Desk, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{desk.app}/queue")
    page.get_by_label("Your key", exact=True).fill("guessed", timeout=SOON)
    page.get_by_test_id("stFormSubmitButton").get_by_role("button").click()
    expect(page.get_by_text("the key is not known")).to_be_visible(timeout=SOON)
    expect(page.get_by_test_id("stDataFrame")).to_have_count(0)
    page.close()


# --- Without a browser


@pytest.fixture
def open_page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppTest]]:
    "A page of the app against the API at a port, as someone."

    def start(name: str, url: str, key: str = "", **session: Any) -> AppTest:
        monkeypatch.setenv("API_PORT", url.rsplit(":", 1)[1])
        settings.cache_clear()
        page = AppTest.from_file(str(ROOT / f"streamlit_app/views/{name}.py"), default_timeout=60)
        if key:
            page.session_state["key"] = key
        for each, value in session.items():
            page.session_state[each] = value
        return page.run()

    monkeypatch.syspath_prepend(str(ROOT / "streamlit_app"))
    yield start
    settings.cache_clear()


@pytest.mark.parametrize("name", PAGES)
def test_pages_say_what_to_do_when_the_api_is_away(open_page: Callable[..., AppTest], name: str) -> None:
    page = open_page(name, f"http://127.0.0.1:{free_port()}", asked="t-1")
    assert not page.exception and page.title[0].value
    if name != "data":  # the pipeline's reports need no API
        assert "Start it with `make run`" in page.error[0].value


def test_pages_say_what_to_do_without_a_model_and_with_an_empty_log(
    open_page: Callable[..., AppTest], project: Project, serve: Serve
) -> None:
    with serve(project, MODEL_ALIAS="later") as (url, _):
        for name in ("live", "alerts", "transaction", "score", "model", "monitor"):
            page = open_page(name, url, asked="t-1")
            assert not page.exception and "dvc repro && mlops-fraud promote" in page.error[0].value, name
        registry.promote("1", read_settings(mlflow_tracking_uri=project.settings.tracking_uri, model_alias="later"))
        for name, says in (
            ("live", "Nothing was decided in the last 5 minutes"), ("alerts", "No alert passes"), ("monitor", "Nothing was decided yet"),
        ):  # fmt: skip
            page = open_page(name, url)
            assert not page.exception and says in page.info[0].value, name
        assert "t-1' was never decided" in open_page("transaction", url, asked="t-1").error[0].value
        trying_counts_nothing_and_counting_counts_one(open_page("score", url))


def trying_counts_nothing_and_counting_counts_one(page: AppTest) -> None:
    page.button[0].click().run()
    assert "0 transactions" in page.caption[0].value
    page.toggle[0].set_value(True)
    page.button[0].click().run()
    said = " ".join(text.value for text in page.markdown)
    assert "Expected cost" in said and "Counted, as `" in said
    page.run()
    assert "1 transactions" in page.caption[0].value
    page.selectbox[0].set_value("CASH_OUT")
    page.button[0].click().run()
    assert "It cashes out just what was transferred by" in page.warning[0].value
    page.number_input[0].set_value(0.001)
    page.button[0].click().run()
    assert "amount = 0.001; it must be a number from 0 to 10000000000 with at most two decimals" in page.error[0].value
    assert not page.exception


def test_filters_leave_what_they_name(desk: Desk, open_page: Callable[..., AppTest]) -> None:
    page = open_page("alerts", desk.url, desk.keys["val"])
    page.selectbox(key="kind").set_value("TRANSFER")
    page.number_input(key="least").set_value(100_000.0)
    page.run()
    shown = page.dataframe[0].value
    wanted = list(desk.ask("/desk/alerts", status="new", type="TRANSFER", at_least=100_000.0)["alerts"])
    assert list(shown["Transaction"]) == [alert["transaction_id"] for alert in wanted] and wanted
    page.text_input(key="recipient").set_value("C-nobody").run()
    assert "No alert passes these filters" in page.info[0].value and not page.exception


def test_a_changed_transaction_is_decided_at_once(desk: Desk, open_page: Callable[..., AppTest]) -> None:
    page = open_page("transaction", desk.url, desk.keys["val"], asked=desk.alerts[0]["transaction_id"])
    said = [text.value for text in page.markdown if "at a chance of fraud of" in text.value]
    page.number_input[0].set_value(1.0).run()
    changed = [text.value for text in page.markdown if "at a chance of fraud of" in text.value]
    assert len(said) == len(changed) == 1 and said != changed and not page.exception


def test_another_limit_shows_what_it_would_have_done(desk: Desk, open_page: Callable[..., AppTest]) -> None:
    page = open_page("model", desk.url, desk.keys["val"])
    alerts = page.metric[0].value
    tried = pl.read_csv(ROOT / "reports/plots/thresholds.csv")["threshold"]
    page.session_state["review"] = tried[0]  # set_value knows no format_func
    page.run()
    assert float(page.metric[0].value.replace(",", "")) > float(alerts.replace(",", ""))
    assert page.metric[0].delta.startswith("+") and not page.exception
    wrongly = page.metric[2].value
    page.session_state["block"] = tried[0]  # all that would be reviewed is blocked, and the analysts may go home
    page.run()
    assert page.metric[1].value == "0.0" and float(page.metric[2].value.replace(",", "")) > float(wrongly.replace(",", ""))
    assert not page.exception
