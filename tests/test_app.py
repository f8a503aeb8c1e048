"""The app as an analyst meets it: in a real browser, against a running API."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Project, Serve, free_port
from playwright.sync_api import Browser, Page, expect
from streamlit.testing.v1 import AppTest

from mlops_fraud.deployment.local import Server, running
from mlops_fraud.settings import settings


@pytest.fixture
def open_app(browser: Browser, tmp_path: Path) -> Iterator:
    "Open the app against the API at `url`."
    stack = []

    def start(url: str) -> Page:
        port = free_port()
        command = ["env", f"API_PORT={url.rsplit(':', 1)[1]}", sys.executable, "-m", "streamlit", "run", "streamlit_app/app.py",
                   "--server.port", str(port), "--server.headless", "true", "--browser.gatherUsageStats", "false"]  # fmt: skip
        app = running([Server("app", command, f"http://127.0.0.1:{port}", "/_stcore/health")], tmp_path / "logs", ROOT)
        app.__enter__()
        stack.append(app)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(f"http://127.0.0.1:{port}")
        return page

    yield start
    for app in stack:
        app.__exit__(None, None, None)


def test_an_analyst_scores_a_transaction_and_sees_why(project: Project, serve: Serve, open_app, tmp_path: Path) -> None:
    with serve(project, HISTORY=str(project.history)) as (url, _):
        page = open_app(url)
        page.get_by_role("button", name="Score").click(timeout=30_000)
        expect(page.get_by_text("at a probability of fraud of")).to_be_visible(timeout=30_000)
        picture = page.get_by_test_id("stImage").locator("img")
        expect(picture).to_be_visible(timeout=30_000)
        assert picture.bounding_box()["width"] > 300  # type: ignore[index]
        assert page.locator("ol li").count() == settings().n_reasons
        for reason in page.locator("ol li").all_inner_texts():
            assert reason.endswith(("raises the risk.", "lowers the risk."))
        assert page.get_by_text("Traceback").count() == 0


def test_the_app_says_what_to_do_when_the_api_is_away(open_app) -> None:
    page = open_app(f"http://127.0.0.1:{free_port()}")
    expect(page.get_by_text("Start it with make run")).to_be_visible(timeout=30_000)
    assert page.get_by_text("Traceback").count() == 0


@pytest.fixture
def score_page(project: Project, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    "The page on which a transaction is scored, without a browser, against an API with an empty past."
    with serve(project) as (url, _):
        monkeypatch.setenv("API_PORT", url.rsplit(":", 1)[1])
        monkeypatch.syspath_prepend(str(ROOT / "streamlit_app"))
        settings.cache_clear()
        yield AppTest.from_file(str(ROOT / "streamlit_app/pages/score.py"), default_timeout=60).run()
        settings.cache_clear()


def test_trying_counts_nothing_and_counting_counts_one(score_page: AppTest) -> None:
    score_page.button[0].click().run()
    assert "0 transactions" in score_page.caption[0].value
    score_page.toggle[0].set_value(True)
    score_page.button[0].click().run()
    assert "Expected cost" in " ".join(text.value for text in score_page.markdown)
    score_page.run()
    assert "1 transactions" in score_page.caption[0].value
    score_page.selectbox[0].set_value("CASH_OUT")
    score_page.button[0].click().run()
    assert "It cashes out just what was transferred by" in score_page.warning[0].value
    assert not score_page.exception


def test_a_refused_transaction_is_explained_by_the_api_s_own_words(score_page: AppTest) -> None:
    score_page.number_input[0].set_value(0.001)
    score_page.button[0].click().run()
    assert "amount = 0.001; it must be a number from 0 to 10000000000 with at most two decimals" in score_page.error[0].value
