"""What DVC keeps comes back from an S3 bucket, byte for byte."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from conftest import KAGGLE
from engines import s3

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-north-1"}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    "The address of an S3-compatible server with a bucket `fraud`."
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3(tmp_path / "logs") as url:
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="fraud", CreateBucketConfiguration={"LocationConstraint": "eu-north-1"})
        yield url


def test_events_are_pushed_to_a_bucket_and_pulled_by_another_clone(clone: Path, bucket: str) -> None:
    shutil.copy(KAGGLE, clone / "data/raw/paysim.csv")
    environment = {**os.environ, "PYTHONPATH": str(clone)}

    def dvc(*args: str, at: Path = clone) -> None:
        done = subprocess.run(["dvc", *args], cwd=at, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def digest(at: Path) -> str:
        return hashlib.sha256((at / "data/interim/events.parquet").read_bytes()).hexdigest()

    dvc("repro", "-q", "ingest")
    dvc("push", "-q", "ingest")
    assert len([path for path in (clone / "data/remote").rglob("*") if path.is_file()]) >= 2  # a folder, by default

    dvc("remote", "modify", "storage", "url", "s3://fraud/mlops-fraud")
    dvc("remote", "modify", "--local", "storage", "endpointurl", bucket)
    dvc("push", "-q", "ingest")
    kept = boto3.client("s3", endpoint_url=bucket).list_objects_v2(Bucket="fraud", Prefix="mlops-fraud/")
    assert kept["KeyCount"] >= 2

    other = clone.parent / "other"
    subprocess.run(["git", "clone", "-q", str(clone), str(other)], check=True)
    for name in (".dvc/config", ".dvc/config.local", "dvc.lock"):
        shutil.copy(clone / name, other / name)
    dvc("pull", "-q", "ingest", at=other)
    assert digest(other) == digest(clone)
