"""Notebooks under git: clean when committed, readable in a diff, merged cell by cell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

NAME = "nbs/23_ledger.ipynb"


class Checkout:
    "A clone with the hooks installed."

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        (folder / ".venv").symlink_to(sys.prefix)
        subprocess.run(["scripts/hooks"], cwd=folder, check=True, capture_output=True)
        for name, value in {"user.name": "test", "user.email": "test@example.org", "core.editor": "true"}.items():
            self.git("config", name, value)

    def git(self, *args: str, status: int = 0) -> str:
        done = subprocess.run(["git", *args], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def read(self) -> dict:
        return json.loads((self.folder / NAME).read_text())

    def write(self, notebook: dict) -> None:
        (self.folder / NAME).write_text(json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def say(self, cell: int, sentence: str) -> None:
        "Add `sentence` to the cell number `cell` of prose."
        notebook = self.read()
        prose = [c for c in notebook["cells"] if c["cell_type"] == "markdown"]
        prose[cell]["source"] = ["".join(prose[cell]["source"]) + f"\n\n{sentence}"]
        self.write(notebook)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("git") / "clone")


def test_outputs_stay_in_the_working_copy_and_are_never_committed(checkout: Checkout) -> None:
    notebook = checkout.read()
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    cell |= {"execution_count": 7, "outputs": [{"name": "stdout", "output_type": "stream", "text": ["kept on the screen"]}]}
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.12.1"}
    checkout.write(notebook)
    assert checkout.git("status", "--porcelain").split() in ([], ["M", NAME])
    checkout.git("add", NAME)
    assert checkout.git("diff", "--cached", "--name-only") == ""
    checkout.say(0, "A new sentence.")
    checkout.git("commit", "-qam", "a sentence")
    committed = checkout.git("show", f"HEAD:{NAME}")
    assert "A new sentence." in committed
    assert not any(word in committed for word in ("kept on the screen", "language_info", '"execution_count": 7'))
    assert "kept on the screen" in (checkout.folder / NAME).read_text()
    checkout.git("checkout", "-q", "--", NAME)


def test_what_is_committed_is_clean() -> None:
    for path in subprocess.run(["git", "ls-files", "nbs/*.ipynb"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        committed = subprocess.run(["git", "show", f":{path}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in json.loads(committed)["cells"]), path


def test_a_diff_shows_cells_and_not_json(checkout: Checkout) -> None:
    checkout.say(0, "A new sentence.")
    shown = checkout.git("diff")
    assert "nbdiff" in shown and "A new sentence." in shown
    assert '"cell_type"' not in shown and "execution_count" not in shown
    checkout.git("checkout", "-q", "--", NAME)


def test_two_changes_of_one_notebook_merge(checkout: Checkout) -> None:
    for branch, cell in (("one", 0), ("other", 2)):
        checkout.git("checkout", "-qb", branch, "origin/HEAD")
        checkout.say(cell, f"Said on {branch}.")
        checkout.git("commit", "-qnam", branch)
    checkout.git("merge", "-q", "one", "-m", "both")
    text = (checkout.folder / NAME).read_text()
    assert "Said on one." in text and "Said on other." in text and "<<<<<<<" not in text
    json.loads(text)
