"""A data scientist's JupyterLab, in a real browser: a chapter runs from top to bottom, and its links lead to others."""

import json
import sys
from pathlib import Path

from conftest import free_port
from playwright.sync_api import Browser, expect

from mlops_fraud.deployment.local import Server, running

CHAPTER, LINKED = "63_waterfall.ipynb", "50_explain.ipynb"


def test_a_chapter_runs_in_the_browser_and_links_to_others(clone: Path, browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ["--no-browser", "--ServerApp.token=", "--port", str(port), "--notebook-dir", "nbs", "--allow-root"]
    command = ["env", f"PYTHONPATH={clone}", f"JUPYTER_CONFIG_DIR={tmp_path}", sys.executable, "-m", "jupyter", "lab", *options]
    with running([Server("lab", command, url, "/api")], tmp_path / "logs", clone):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{url}/lab/tree/{CHAPTER}")
        idle = page.get_by_text("Python 3 (ipykernel) | Idle")
        expect(idle).to_be_visible(timeout=60_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        picture = page.locator(".jp-RenderedImage img")
        expect(picture.first).to_be_visible(timeout=60_000)
        expect(idle).to_be_visible(timeout=30_000)
        page.keyboard.press("Control+s")
        expect(page.get_by_text("Saving completed")).to_be_visible(timeout=30_000)
        page.locator(".jp-Notebook").get_by_role("link", name="Explain").click()
        expect(page.get_by_role("tab", name=LINKED)).to_be_visible(timeout=30_000)
    cells = [cell for cell in json.loads((clone / "nbs" / CHAPTER).read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [
        output for cell in cells for output in cell["outputs"] if output["output_type"] == "error" or output.get("name") == "stderr"
    ]
