"""Engines that others ship, started for a test: PostgreSQL, Redis, and an S3-compatible store. `scripts/engines` installs them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import free_port

from mlops_fraud.deployment.local import Server, running


def postgres_program(name: str) -> str:
    "The path of one of PostgreSQL's programs, which Debian keeps off PATH."
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else needed(name)


def needed(name: str) -> str:
    "The path of a program. Where nobody could install it, the test is left out and says so."
    program = shutil.which(name)
    if not program:
        pytest.skip(f"{name} is not installed, and scripts/engines could not install it")
    return program


class Engine:
    "A server that is started for a test, and may be ended and started again."

    def __init__(self, command: list[str], ready: list[str], port: int, log: Path):
        self.command, self.ready, self.port, self.log = command, ready, port, log
        self.start()

    def start(self) -> None:
        "Start it and wait until it answers."
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        while self.process.poll() is None and subprocess.run(self.ready, capture_output=True).returncode:
            time.sleep(0.1)
        assert self.process.poll() is None, self.log.read_text()

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        "End it, with the connections to it."
        self.process.send_signal(how)
        self.process.wait(20)


@contextmanager
def postgres(user: str, password: str, database: str) -> Iterator[Engine]:
    """PostgreSQL with one database.

    Its data lie in a folder of its own: it refuses to run as root, and each start of pytest takes from all others the folders of those that run beside it.
    """
    lesser = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="postgres-") as own:
        folder, port = Path(own), free_port()
        data, secret = folder / "data", folder / "password"
        data.mkdir()
        secret.write_text(password)
        if lesser:
            for path in (folder, data, secret):
                shutil.chown(path, "postgres", "postgres")
        made = ["-D", str(data), "-U", user, "--pwfile", str(secret), "-A", "scram-sha-256", "-N"]
        subprocess.run([*lesser, postgres_program("initdb"), *made], check=True, capture_output=True)
        start = [*lesser, postgres_program("postgres"), "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", own]
        address = ["-h", "127.0.0.1", "-p", str(port), "-U", user]
        engine = Engine(start, [postgres_program("pg_isready"), "-t", "1", *address], port, folder / "log")
        try:
            password_too = {**os.environ, "PGPASSWORD": password}
            subprocess.run([postgres_program("createdb"), *address, database], check=True, capture_output=True, env=password_too)
            yield engine
        finally:
            engine.end()


@contextmanager
def redis(folder: Path, *options: str, tls: bool = False) -> Iterator[Engine]:
    "Redis, which keeps nothing when it ends; with `tls`, as whoever `folder / certificate` says."
    folder.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    listens = ["--port", port]
    if tls:
        key, certificate = folder / "key", folder / "certificate"
        who = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *who], check=True, capture_output=True)
        files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
        listens = ["--port", "0", "--tls-port", port, *files]
    command = [needed("redis-server"), *listens, "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
    asks = ["redis-cli", *(["--tls", "--insecure"] if tls else []), "-p", port, "ping"]
    engine = Engine(command, asks, int(port), folder / "log")
    try:
        yield engine
    finally:
        engine.end()


@contextmanager
def s3(folder: Path) -> Iterator[str]:
    "An S3-compatible store without buckets; its address."
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-p", str(port)]
    with running([Server("S3", command, f"http://127.0.0.1:{port}", "/moto-api/data.json")], folder, folder):
        yield f"http://127.0.0.1:{port}"
