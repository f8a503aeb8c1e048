"""The main job, as a newcomer starts it: on the real rows, in a clone of its own, until Ctrl-C."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from conftest import KAGGLE, ROOT, free_port


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    "The tracked files as they are now, under git, without data or models."
    folder = tmp_path / "clone"
    folder.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")[:-1]
    for name in tracked:
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=folder, check=True)
    subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-qm", "as it is"], cwd=folder, check=True)
    return folder


def start(clone: Path, **changes: str) -> tuple[subprocess.Popen[bytes], Path]:
    "`mlops-fraud run` in `clone`, and the file that it prints to."
    printed = clone.parent / f"printed-{time.monotonic_ns()}"
    environment = {**os.environ, "PYTHONPATH": str(clone), **changes}
    with printed.open("wb") as out:
        return subprocess.Popen(
            ["mlops-fraud", "run"], cwd=clone, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        ), printed


def wait_for(words: str, process: subprocess.Popen[bytes], printed: Path, patience: float) -> str:
    "What was printed once it holds `words`."
    deadline = time.monotonic() + patience
    while words not in printed.read_text(errors="replace"):
        assert process.poll() is None, f"it ended early:\n{printed.read_text(errors='replace')[-3000:]}"
        assert time.monotonic() < deadline, f"no {words!r} after {patience} s:\n{printed.read_text(errors='replace')[-3000:]}"
        time.sleep(0.2)
    return printed.read_text(errors="replace")


@pytest.mark.timeout(500)
def test_from_a_raw_file_to_two_explained_decisions_and_back(clone: Path) -> None:
    shutil.copy(KAGGLE, clone / "data/raw/paysim.csv")
    ports = {"API_PORT": str(free_port()), "APP_PORT": str(free_port()), "MLFLOW_PORT": str(free_port())}
    process, printed = start(clone, **ports)
    try:
        said = wait_for("Ctrl-C ends all three", process, printed, 400)
        for port, page in zip(ports.values(), ("/readyz", "/", "/")):
            assert httpx.get(f"http://127.0.0.1:{port}{page}", timeout=30).status_code == 200
        taken, _ = start(clone, **ports)
        assert taken.wait(60) == 1
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    assert "10,000 events in steps 1-7, 68 frauds; 0 rows refused" in (clone / "reports/data_quality.md").read_text()
    assert "An ordinary payment" in said and "A suspicious cash-out" in said
    assert said.count("the risk. (") >= 4
    assert "So few frauds make no trustworthy figures" in (clone / "reports/evaluation.md").read_text()
    assert (clone / "reports/eda_summary.md").exists()
    for port in ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "a server outlived Ctrl-C"

    again, printed = start(clone, **ports)
    try:
        said = wait_for("Ctrl-C ends all three", again, printed, 60)
    finally:
        os.killpg(again.pid, signal.SIGTERM)
        again.wait(30)
    assert said.count("didn't change, skipping") == 6


def test_a_port_in_use_is_one_sentence(clone: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process, printed = start(clone, API_PORT=port)
        assert process.wait(60) == 1
    said = "mlops-fraud: api_port {} on 127.0.0.1 cannot be used (Address already in use); stop what uses it or set API_PORT"
    assert printed.read_text().strip() == said.format(port)
