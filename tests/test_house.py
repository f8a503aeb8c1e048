"""The plan of the house: which room may lean on which."""

import ast
import json
import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT

from mlops_fraud.schemas import NEVER_READ

NUMBERED = sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb"))


def exported_module(notebook: Path) -> str | None:
    "The module that `notebook` exports, as `data/ingest`."
    found = re.search(r"#\| default_exp ([\w.]+)", notebook.read_text())
    return found[1].replace(".", "/") if found else None


MODULES = {module: notebook for notebook in NUMBERED if (module := exported_module(notebook))}


def imported_modules(path: Path) -> set[str]:
    "Modules of the package that the file at `path` imports."
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mlops_fraud":
            whole = (node.module or "").removeprefix("mlops_fraud").lstrip(".").replace(".", "/")
            found |= {whole} if whole in MODULES else {f"{whole}/{name.name}".lstrip("/") for name in node.names}
    return found


def test_every_module_comes_from_one_notebook() -> None:
    files = {str(path.relative_to(ROOT / "mlops_fraud").with_suffix("")) for path in (ROOT / "mlops_fraud").rglob("*.py")}
    assert {name for name in files if not name.split("/")[-1].startswith("_")} == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_numbers(module: str) -> None:
    for other in imported_modules(ROOT / f"mlops_fraud/{module}.py"):
        assert MODULES[other].name < MODULES[module].name, f"{module} imports {other}, which comes later"


def test_numbers_are_unique() -> None:
    numbers = [notebook.name[:2] for notebook in NUMBERED]
    assert len(set(numbers)) == len(numbers)


def test_no_module_is_an_attic() -> None:
    assert not {"utils", "util", "helpers", "common", "misc"} & {module.split("/")[-1] for module in MODULES}


def test_the_app_only_frames_the_package() -> None:
    for page in (ROOT / "streamlit_app").rglob("*.py"):
        imports = {alias.name for node in ast.walk(ast.parse(page.read_text())) if isinstance(node, ast.Import) for alias in node.names}
        assert not imports & {"xgboost", "sklearn", "numpy", "mlflow"}, f"{page.name} computes what the package should"


@pytest.mark.parametrize("module", MODULES)
def test_what_is_compiled_stands_on_its_own_module(module: str) -> None:
    # numba compiles again when the file of a function changes, not when a file does that it took something from.
    tree = ast.parse((ROOT / f"mlops_fraud/{module}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    ours = {name.asname or name.name for node in imports for name in node.names} - {"TYPES"}  # which PaySim has fixed
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        if any(word in ast.unparse(decorator) for decorator in function.decorator_list for word in ("njit", "compiled", "intrinsic")):
            used = {node.id for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)}
            assert not used & ours, f"{function.name} would keep an old {', '.join(used & ours)}"


@pytest.mark.parametrize("module", ["features", "state", "preprocessing", "scoring", "explain", "model"])
def test_what_must_never_be_read_is_not_even_named(module: str) -> None:
    names = {node.value for node in ast.walk(ast.parse((ROOT / f"mlops_fraud/{module}.py").read_text())) if isinstance(node, ast.Constant)}
    allowed = {"isFraud"} if module == "preprocessing" else set()
    assert not names & (set(NEVER_READ) - allowed)


def test_notebooks_say_why_they_exist() -> None:
    for notebook in NUMBERED:
        first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
        assert re.match(r"# .+\n\n> .+", first), f"{notebook.name} does not open with a title and one sentence"


# --- The order in which it is read


def prose(notebook: Path) -> list[str]:
    "The cells of `notebook`; code cells are empty."
    return ["".join(cell["source"]) if cell["cell_type"] == "markdown" else "" for cell in json.loads(notebook.read_text())["cells"]]


def title(notebook: Path) -> str:
    return prose(notebook)[0].split("\n")[0].removeprefix("# ")


def next_chapter(notebook: Path) -> Path | None:
    "The chapter to which the last cell of `notebook` leads on, by its title and in one sentence."
    led = re.fullmatch(r"Next: \[(.+)\]\((.+)\), [^\n]+\.", prose(notebook)[-1])
    if led is None:
        return None
    following = notebook.with_name(led[2])
    assert led[1] == title(following), f"{notebook.name} calls {following.name} {led[1]!r}"
    return following


@pytest.mark.parametrize("notebook", [*NUMBERED, ROOT / "nbs/index.ipynb"], ids=lambda notebook: notebook.stem)
def test_links_lead_to_what_is_there(notebook: Path) -> None:
    targets = re.findall(r"\]\((?!\w+:)([^)#\s]+)", "\n".join(prose(notebook)))
    assert not [target for target in targets if not (notebook.parent / target).exists()]


def test_each_chapter_leads_on_to_the_next() -> None:
    led = {here.stem: (following := next_chapter(here)) and following.stem for here in NUMBERED}
    order = {here.stem: following.stem for here, following in pairwise(NUMBERED)} | {NUMBERED[-1].stem: None}
    assert led == order


# --- The image


def test_the_readme_says_what_its_notebook_does() -> None:
    readme, from_root = (ROOT / "README.md").read_text(), runpy.run_path(str(ROOT / "scripts/readme"))["from_root"]
    cells = json.loads((ROOT / "nbs/index.ipynb").read_text())["cells"]
    told = [from_root("".join(cell["source"])) for cell in cells if cell["cell_type"] == "markdown"]
    chapters = [f"(nbs/{notebook.name})" for notebook in NUMBERED]
    stale = [text[:60] for text in [*told, *chapters] if text not in readme]
    assert not stale, "write README.md anew, with the service running: scripts/readme"


def test_what_the_dockerfile_copies_is_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    sources = " ".join(copied).replace("${PACKAGES}", "serve").split()
    assert sources and set(sources) <= {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
