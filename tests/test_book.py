"""The book as a reader opens it: every link of every page, its figures and its search, in a real browser."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from conftest import copy_tracked, free_port
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Browser, BrowserContext, Error, Page, Request, expect

from mlops_fraud.deployment.local import Server, running
from mlops_fraud.features import NAMES

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


# --- The book of a copy of the project


def make_book(project: Path, to: str) -> subprocess.CompletedProcess[str]:
    "`scripts/book` in `project`; of the chapters only the waterfall and the planted one are executed."
    command = [sys.executable, "scripts/book", "--execute", "[69][39]_[wp]*", "--to", to]
    environment = {**os.environ, "PYTHONPATH": str(project)}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=200)


def plant(project: Path) -> None:
    "A chapter with every directive and every form of output."
    cells = [
        new_markdown_cell("# Planted\n\n> What a chapter may hold."),
        new_code_cell("#| default_exp planted"),
        new_code_cell("#| export\nexported = 1"),
        new_code_cell("#| hide\nhidden = 2\nprint('said in secret')"),
        new_code_cell("#| echo: false\nprint('sum:', exported + hidden)"),
        new_code_cell("#| eval: false\nraise RuntimeError('too heavy')"),
        new_code_cell("import sys\n\nprint('\\r 50%', end='')\nprint('\\r100%')\nprint('logged', file=sys.stderr)\nprint('1', '<', '2')"),
        new_code_cell(f"from base64 import b64decode\n\nfrom IPython.display import HTML, Image, Markdown\n\nImage(b64decode('{PIXEL}'))"),
        new_code_cell("Markdown('## Told\\n\\nas [Features](20_features.ipynb) tells it, and [a report](half_year.md)')"),
        new_code_cell("HTML('<b id=bold>bold</b>')"),
    ]
    nbformat.write(new_notebook(cells=cells), project / "nbs/99_planted.ipynb")
    (project / "mlops_fraud/planted.py").write_text('__all__ = ["exported"]\n\nexported = 1\n')


def leave_executed(project: Path, name: str, printed: str, added: str = "") -> None:
    "The copy of a notebook that `dvc repro` leaves; before `added` was taken out of the notebook."
    notebook = nbformat.read(project / f"nbs/{name}.ipynb", as_version=4)
    notebook.cells[0].source += added
    ran = new_code_cell("seed = 7", metadata={"tags": ["injected-parameters"]}, outputs=[new_output("stream", text=printed)])
    notebook.cells.append(ran)
    notebook.metadata.papermill = {"exception": None}
    (project / "reports/notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, project / f"reports/notebooks/{name}.ipynb")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A copy of the project with its book."
    project = copy_tracked(tmp_path_factory.mktemp("project"))
    plant(project)
    leave_executed(project, "24_decisions", "printed by the pipeline")
    leave_executed(project, "25_model", "printed long ago", added=" Another word.")
    made = make_book(project, "_docs")
    assert made.returncode == 0, made.stderr
    assert "nbs/63_waterfall.ipynb took" in made.stdout and "nbs/99_planted.ipynb took" in made.stdout
    return project


@pytest.fixture
def page(browser: Browser) -> Page:
    return browser.new_page()


@pytest.fixture
def opened(project: Path, page: Page):
    "Open a page of the book: its article."

    def open_page(name: str):
        page.goto((project / "_docs" / name).as_uri())
        return page.get_by_role("article")

    return open_page


# --- A reader who clicks on everything


class Visit(NamedTuple):
    links: list[str]
    ids: set[str]
    pictures: int
    wrong: list[str]  # what the browser complained about


class Reader:
    "Opens page after page in one window: a window for each costs as much again."

    def __init__(self, context: BrowserContext):
        self.context, self.wrong = context, list[str]()
        self.open_window()

    def open_window(self) -> None:
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.wrong.append(f"says {message.text}") if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(f"raises {error}"))
        self.page.on("requestfailed", self.fails)
        self.page.on("request", self.asks)

    def fails(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # whoever opens the next page no longer waits for this one's icon
            self.wrong.append(f"fails to load {request.url}")

    def asks(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.wrong.append(f"asks for {request.url}")

    def visit(self, url: str) -> Visit:
        "What a page holds, and what goes wrong when it is opened."
        self.wrong.clear()
        try:
            self.page.goto(url)
            links, ids, pictures = self.page.evaluate("""() => [
                Array.from(document.querySelectorAll("a[href]"), a => a.href),
                Array.from(document.querySelectorAll("[id]"), e => e.id),
                Array.from(document.images, i => i.naturalWidth > 0 ? "" : i.src)]""")
            return Visit(links, set(ids), len(pictures), [*self.wrong, *(f"does not show {source}" for source in pictures if source)])
        except Error as error:
            self.page.close()  # it may still be on its way to a page that says so
            self.open_window()
            return Visit([], set(), 0, [f"does not open: {error.message.splitlines()[0]}"])


def crawl(browser: Browser, folder: Path) -> tuple[dict[str, Visit], list[str]]:
    "Every page that can be reached from `folder`/index.html, and all that is wrong with them."
    visits: dict[str, Visit] = {}
    pending = {(folder / "index.html").as_uri()}
    with browser.new_context() as context:
        reader = Reader(context)
        while pending:
            url = pending.pop()
            visits[url] = reader.visit(url)
            pending |= {urldefrag(link).url for link in visits[url].links if link.startswith("file:")} - set(visits)
    wrong = [f"{url} {complaint}" for url, seen in visits.items() for complaint in seen.wrong]
    for url, seen in visits.items():
        for link in seen.links:
            target, anchor = urldefrag(link)
            if anchor and target in visits and unquote(anchor) not in visits[target].ids:
                wrong.append(f"{url} links to {link}, which has no such anchor")
    return visits, wrong


def test_every_link_leads_somewhere_and_nothing_comes_from_elsewhere(project: Path, browser: Browser) -> None:
    visits, wrong = crawl(browser, project / "_docs")
    assert not wrong, "\n".join(wrong)
    names = {unquote(url).split("/_docs/")[1] for url in visits}
    for folder, kind in (("nbs", "[0-9]*.ipynb"), ("reports", "*.md")):
        stems = {path.stem.replace("README", "index") for path in (project / folder).glob(kind)}  # as mkdocs names it
        assert {f"{folder}/{stem}.html" for stem in stems} <= names
    assert {"index.html", "CONTRIBUTING.html", "settings.ini.html", "streamlit_app/views.html"} <= names
    assert sum(seen.pictures for seen in visits.values()) >= len(list((project / "reports/figures").rglob("*.png")))


def test_the_reader_notices_what_is_broken(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        """<a href="other.html#here">fine</a> <a href="https://example.org">elsewhere</a>
        <a href="gone.html">gone</a> <a href="other.html#gone">no anchor</a>
        <img src="gone.png"> <script src="https://fonts.invalid/x.js"></script> <script>throw new Error("oh")</script>"""
    )
    (tmp_path / "other.html").write_text("<p id=here>")
    visits, wrong = crawl(browser, tmp_path)
    assert len(visits) == 3
    for complaint in ("gone.html does not open", "other.html#gone, which has no such anchor", "does not show file:", "raises oh"):
        assert any(complaint in line for line in wrong), complaint
    assert any("asks for https://fonts.invalid/x.js" in line for line in wrong)
    assert not any("#here" in line or "example.org" in line for line in wrong)


def test_a_link_to_nothing_ends_the_making_with_its_name(project: Path) -> None:
    path = project / "nbs/50_explain.ipynb"
    whole = path.read_text()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_markdown_cell("[a chapter](49_gone.ipynb), [a section](20_features.ipynb#gone)"))
    nbformat.write(notebook, path)
    made = make_book(project, "broken")
    path.write_text(whole)
    assert made.returncode == 1
    assert "49_gone.ipynb" in made.stderr and "20_features.md#gone" in made.stderr
    assert "took" not in made.stdout, "an unchanged notebook was executed again"


# --- What a chapter shows


def test_a_chapter_shows_what_a_reader_wants_and_not_what_nbdev_does(opened) -> None:
    chapter = opened("nbs/99_planted.html")
    expect(chapter.locator(".exported")).to_have_text("exported = 1")
    assert [text.strip() for text in chapter.locator(".output.highlight").all_inner_texts()] == ["sum: 3", "1 < 2"]
    expect(chapter).to_contain_text("too heavy")
    expect(chapter.locator("b#bold")).to_have_text("bold")
    expect(chapter.get_by_role("link", name="Features")).to_have_attribute("href", "20_features.html")
    assert chapter.locator("img").evaluate("picture => picture.naturalWidth") == 1
    for absent in ("#|", "secret", "'sum:'"):
        expect(chapter).not_to_contain_text(absent)


def test_a_chapter_and_its_module_link_to_each_other(opened, page: Page) -> None:
    opened("nbs/99_planted.html").get_by_role("link", name="mlops_fraud.planted").click()
    expect(page.get_by_role("article")).to_contain_text("exported = 1")
    page.get_by_role("article").get_by_role("link", name="99 Planted").click()
    expect(page).to_have_title("99 Planted - mlops-fraud")


def test_a_stage_shows_the_pipeline_s_run_unless_it_has_been_edited_since(opened) -> None:
    expect(opened("nbs/24_decisions.html")).to_contain_text("printed by the pipeline")
    expect(opened("nbs/25_model.html")).not_to_contain_text("printed long ago")


def test_the_waterfall_is_drawn(opened) -> None:
    picture = opened("nbs/63_waterfall.html").locator("img")
    assert picture.evaluate("picture => picture.naturalWidth") > 300


@pytest.mark.parametrize("served", [False, True], ids=["from the folder", "from a server"])
def test_search_finds_a_feature_by_its_name(project: Path, page: Page, tmp_path: Path, served: bool) -> None:
    folder, port = project / "_docs", free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    server = Server("book", command, f"http://127.0.0.1:{port}", "/index.html")
    with running([server] if served else [], tmp_path, project):
        page.goto(f"{server.url}/index.html" if served else (folder / "index.html").as_uri())
        page.get_by_placeholder("Search").click()
        page.get_by_placeholder("Search").press_sequentially(NAMES[0])
        expect(page.locator(".md-search-result__link[href*='63_waterfall']").first).to_be_visible(timeout=20_000)
