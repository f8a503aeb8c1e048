"""What the image of the API holds, installed beside the project: does it answer? For where there is no Docker."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
from conftest import ROOT, Project, free_port

from mlops_fraud.deployment.local import Server, running


def test_what_the_image_holds_answers(project: Project, tmp_path: Path) -> None:
    venv, uv = tmp_path / "venv", Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, venv], check=True)
    # Copied, not linked: scripts/slim would change what uv keeps for others.
    copied: list[str | Path] = ["-q", "--python", venv, "--link-mode", "copy", "--require-hashes", "-r", ROOT / "requirements/serve.txt"]
    subprocess.run([uv, "pip", "install", *copied], check=True)
    packages = next(venv.glob("lib/python*/site-packages"))
    before = size(packages)
    subprocess.run([ROOT / "scripts/slim", packages, "serve"], check=True)
    assert size(packages) < 0.75 * before
    assert size(packages) < 614e6, "bytecode takes 41 MB more, the project, Python and a shell 45, and the image may have 700"

    port = free_port()
    command = [str(venv / "bin/python"), "-m", "uvicorn", "mlops_fraud.deployment.api:app", "--port", str(port)]
    variables = [f"{name}={value}" for name, value in project.environment(PYTHONPATH=str(ROOT)).items()]
    server = Server("API", ["env", *variables, *command], f"http://127.0.0.1:{port}", "/readyz")
    transaction = {"step": 700, "type": "TRANSFER", "amount": 181.0, "nameOrig": "C1", "nameDest": "C2"}
    with running([server], tmp_path / "logs", ROOT):
        assert httpx.post(f"{server.url}/predict", json=transaction, timeout=30).json()["model"]["version"] == "1"
        assert httpx.post(f"{server.url}/whatif", params={"explain": "full"}, json=transaction).status_code == 200
        assert "mlops_fraud_decisions_total" in httpx.get(f"{server.url}/metrics").text


def size(folder: Path) -> int:
    "As a layer of an image counts it: each file with a header, both in blocks of 512 bytes."
    return sum(512 + -(-os.lstat(path).st_size // 512) * 512 for path in folder.rglob("*") if not path.is_dir() and not path.is_symlink())
