"""scripts/environment finds a Python by running it, and says what to do where it cannot go on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
THIS_PYTHON = getattr(sys, "_base_executable", sys.executable)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    "A copy of what scripts/environment reads, and an empty home."
    project = tmp_path / "project"
    (project / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/environment", project / "scripts")
    shutil.copytree(ROOT / "requirements", project / "requirements")
    shutil.copy(ROOT / "pyproject.toml", project)
    (tmp_path / "bin").mkdir()
    (tmp_path / "home").mkdir()
    return project


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def environment(project: Path, *args: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    "Run the script with PATH = bin/ beside the project, then the tools of POSIX and none of the machine's Pythons."
    tools = project.parent / "tools"
    if not tools.exists():
        tools.mkdir()
        for name in "awk cat cksum df dirname grep ln ls mkdir ps readlink rm sed sleep sort tr".split():
            (tools / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    env = {"PATH": f"{project.parent / 'bin'}:{tools}", "HOME": str(project.parent / "home")}
    command = ["/bin/sh", "scripts/environment", *args]
    return subprocess.run(command, cwd=folder or project, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


def old_python(path: Path) -> Path:
    "Answers as Python 3.11 does when it is asked whether it will do."
    return script(path, "exit 1")


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    "The one sentence on standard error."
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_only_an_old_python_gets_one_sentence_that_says_what_to_install(project: Path) -> None:
    old_python(project.parent / "bin/python3")
    assert "no Python of 3.12 or later" in (said := complaint(environment(project, "run")))
    assert "pyenv install 3.12" in said
    assert not (project / ".venv").exists()


def test_a_shim_without_its_python_and_a_python_without_ensurepip_do_not_count(project: Path) -> None:
    script(project.parent / "bin/python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    script(
        project.parent / "bin/python3.13",
        f'exec {THIS_PYTHON} -S -c "import sys; sys.modules[\'ensurepip\'] = None; exec(sys.argv[1])" "$2"',
    )
    script(project.parent / "bin/python3-config", "echo 3.12 /usage")
    assert "no Python of 3.12 or later" in complaint(environment(project, "--which-python"))


@pytest.mark.parametrize("name", ["python", "python3.13", "python-of-mine"])
def test_a_python_on_path_counts_under_any_name(project: Path, name: str) -> None:
    old_python(project.parent / "bin/python3")
    script(project.parent / f"bin/{name}", f'exec {THIS_PYTHON} "$@"')
    assert Path(environment(project, "--which-python").stdout.strip()).samefile(THIS_PYTHON)


def test_pyenv_counts_even_where_python3_is_older(project: Path) -> None:
    old_python(project.parent / "bin/python3")
    old_python(project.parent / "home/.pyenv/versions/3.9.18/bin/python")
    script(project.parent / "home/.pyenv/versions/3.12.1/bin/python", f'exec {THIS_PYTHON} "$@"')
    assert Path(environment(project, "--which-python").stdout.strip()).samefile(THIS_PYTHON)


def test_the_oldest_python_that_will_do_is_taken(project: Path) -> None:
    for minor in (15, 13, 14):
        script(project.parent / f"bin/python-{minor}", f"echo 3.{minor} /at/{minor}")
    assert environment(project, "--which-python").stdout == "/at/13\n"


def test_too_little_room_gets_one_sentence_before_anything_is_made(project: Path) -> None:
    script(project.parent / "bin/python3.12", f'exec {THIS_PYTHON} "$@"')
    script(project.parent / "bin/df", "echo Filesystem 1024-blocks Used Available Capacity Mounted on; echo none 9 9 204800 9% /")
    assert "200 MB are free here and the packages need about 3000" in complaint(environment(project, "run"))
    assert not (project / ".venv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small file system that this test fills")
def test_a_disk_that_fills_up_while_installing_gets_one_sentence_at_the_end(project: Path) -> None:
    script(project.parent / "bin/python3.12", f'exec {THIS_PYTHON} "$@"')
    # What df said before the installation is no longer true.
    asked = f'[ -e {project.parent}/asked ] && exec {shutil.which("df")} "$@"; touch {project.parent}/asked'
    script(project.parent / "bin/df", f"{asked}; echo none 9 9 9999999 9% /")
    os.symlink(shutil.which("touch") or "/usr/bin/touch", project.parent / "bin/touch")
    small = project.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", small], check=True)
    try:
        on_it = Path(shutil.copytree(project, small / "project"))
        done = environment(project, "run", folder=on_it)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("environment: the disk is full; free about 3000 MB")
        assert (on_it / ".venv/.unfinished").exists()  # so that the next run starts again
        assert not (on_it / ".venv.lock").is_symlink()
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_is_there_already_is_left_alone(project: Path) -> None:
    venv = project / ".venv"
    (venv / "bin").mkdir(parents=True)
    script(venv / "bin/python", "exit 0")
    parts = [(project / name).read_bytes() for name in ("requirements/run.txt", "requirements/uv.txt", "pyproject.toml")]
    checksum = subprocess.run(["cksum"], input=b"".join(parts), capture_output=True, check=True).stdout.decode()
    (venv / ".has-run").write_text(f"{checksum}{project}\n")
    done = environment(project, "run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_engine_that_cannot_be_installed_gets_one_sentence(project: Path) -> None:
    shutil.copy(ROOT / "scripts/engines", project / "scripts")
    script(project.parent / "bin/redis-server", "exit 0")
    script(project.parent / "bin/id", "echo 1000")
    environment(project, "--which-python")  # links the tools of POSIX
    env = {"PATH": f"{project.parent / 'bin'}:{project.parent / 'tools'}"}

    def engines(*names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["/bin/sh", "scripts/engines", *names], cwd=project, env=env, capture_output=True, text=True)

    done = engines("redis-server")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "not here and not to be installed without help: prometheus; tests start them" in complaint(engines("redis-server", "prometheus"))
    script(project.parent / "bin/apt-get", "exit 0")
    script(project.parent / "bin/sudo", "echo 'sudo: a password is required' >&2; exit 1")
    done = engines("prometheus")
    assert done.returncode == 1
    said = ["engines: installing Debian's prometheus", "sudo: a password is required"]
    assert done.stderr.splitlines()[:-1] == said


def test_no_registry_address_is_committed() -> None:
    for file in (ROOT / "requirements").iterdir():
        assert "://" not in file.read_text(), file
