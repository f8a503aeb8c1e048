"""Engines that others ship, started for a test: PostgreSQL, and an S3-compatible store. `scripts/engines` installs them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import free_port

from mlops_fraud.deployment.local import Server, running


def postgres_program(name: str) -> str:
    "The path of one of PostgreSQL's programs, which Debian keeps off PATH."
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    program = str(found[-1]) if found else shutil.which(name)
    assert program, f"{name} is not installed; scripts/engines installs it"
    return program


@contextmanager
def postgres(folder: Path, user: str, password: str, database: str) -> Iterator[int]:
    "PostgreSQL with one database, whose data lie in `folder`; the port that it listens on."
    data, port = folder / "data", free_port()
    data.mkdir(parents=True)
    (folder / "password").write_text(password)
    lesser: list[str] = []  # PostgreSQL refuses to run as root
    if os.getuid() == 0:
        lesser = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        for path in (folder, data, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
        for above in folder.parents:
            if above.stat().st_uid == 0 and above.stat().st_mode & 0o777 == 0o700:
                above.chmod(0o711)  # pytest's folders are its user's alone
    run = [
        *lesser,
        postgres_program("initdb"),
        "-D",
        str(data),
        "-U",
        user,
        "--pwfile",
        str(folder / "password"),
        "-A",
        "scram-sha-256",
        "-N",
    ]
    subprocess.run(run, check=True, capture_output=True)
    start = [*lesser, postgres_program("postgres"), "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder)]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(start, stdout=log, stderr=log)
    address = ["-h", "127.0.0.1", "-p", str(port), "-U", user]
    try:
        ready = [postgres_program("pg_isready"), "-t", "1", *address]
        while process.poll() is None and subprocess.run(ready, capture_output=True).returncode:
            time.sleep(0.1)
        assert process.poll() is None, (folder / "log").read_text()
        subprocess.run(
            [postgres_program("createdb"), *address, database], check=True, capture_output=True, env={**os.environ, "PGPASSWORD": password}
        )
        yield port
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@contextmanager
def s3(folder: Path) -> Iterator[str]:
    "An S3-compatible store without buckets; its address."
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-p", str(port)]
    with running([Server("S3", command, f"http://127.0.0.1:{port}", "/moto-api/data.json")], folder, folder):
        yield f"http://127.0.0.1:{port}"
