"""What the instances of deploy/aws.yaml do when they start, done here: do they end in APIs that answer from one log?

The script is the one that the stack hands to an instance, and its secrets come from the account's Systems Manager. What this
machine has not got, it finds first on PATH: Amazon's Linux, its metadata, and Docker, in whose place the image's command
runs as a process. In place of the account's database and cache are PostgreSQL and a Redis that speaks TLS alone.
"""

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from conftest import ROOT, Project, free_port
from engines import postgres, redis
from test_deploy import ORDER, PASSWORDS, Account, account  # noqa: F401

from mlops_fraud import registry
from mlops_fraud.preprocessing import read_rows
from mlops_fraud.state import State

TOOLS = {
    "dnf": "exit 0",
    "systemctl": "exit 0",
    "chown": "exit 0",
    "curl": 'case "$*" in *instance-id) echo INSTANCE ;; *127.0.0.1*) exec CURL "$@" ;; *) echo token ;; esac',
    "aws": 'exec PYTHON AWS "$@"',
    "docker": 'exec PYTHON DOCKER "$@"',
}

AWS = """
import os, sys, boto3
from fnmatch import fnmatch
from pathlib import Path
words = dict(zip(sys.argv[1:], sys.argv[2:]))
client = lambda name: boto3.client(name, endpoint_url=os.environ["AWS_ENDPOINT_URL"])
match sys.argv[1:3]:
    case "cloudformation", "signal-resource":
        assert words["--logical-resource-id"] == "Group" and words["--stack-name"] == "mlops-fraud", words
        open("signalled", "w").write(words["--unique-id"])
        sys.exit("no update is under way")
    case "ssm", "get-parameter":
        print(client("ssm").get_parameter(Name=words["--name"], WithDecryption=True)["Parameter"]["Value"])
    case "ecr", "get-login-password":
        print(client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"])
    case "s3", "sync":
        s3, (source, target) = client("s3"), sys.argv[3:5]
        if target.startswith("s3://"):
            bucket, _, prefix = target.removeprefix("s3://").partition("/")
            for path in Path(source).glob(words["--include"]):
                s3.upload_file(str(path), bucket, prefix + path.name)
        else:
            bucket, _, prefix = source.removeprefix("s3://").partition("/")
            for found in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
                s3.download_file(bucket, found["Key"], target + found["Key"].removeprefix(prefix))
    case other:
        sys.exit(f"aws {other} is not known")
"""

DOCKER = """
import json, os, re, subprocess, sys
from pathlib import Path
if sys.argv[1] == "login":
    sys.exit(not sys.stdin.read())
if sys.argv[1] == "exec":
    own = json.loads(Path(sys.argv[2]).read_text())
    sys.exit(subprocess.run([sys.executable, *sys.argv[4:]], cwd="ROOT", env={**os.environ, **own}).returncode)
if sys.argv[1] != "run":
    sys.exit()
words, variables, folders, flags = sys.argv[2:], {}, {}, set()
while words[0].startswith("--"):
    match flag := words.pop(0):
        case "--env": name, _, value = words.pop(0).partition("="); variables[name] = value
        case "--env-file": variables |= dict(line.split("=", 1) for line in Path(words.pop(0)).read_text().splitlines())
        case "--volume": here, _, there = words.pop(0).partition(":"); folders[there] = here
        case "--detach" | "--read-only" | "--no-healthcheck" | "--rm" | "--interactive": flags.add(flag)
        case _: flags.add(f"{flag} {words.pop(0)}")
assert {"--read-only", "--cap-drop ALL", "--network host"} <= flags, flags
image, command = words[0], words[1:]
if "--interactive" in flags:
    sys.exit(subprocess.run(command, env={**os.environ, **variables}).returncode)
assert {"--restart always", "--log-opt mode=non-blocking"} <= flags, flags
if not command:
    command = json.loads(re.findall("^CMD (.+)", Path("ROOT/Dockerfile").read_text(), re.M)[-1])
    command[command.index("8000")] = "API_PORT"
    for name in ("BESIDE", "KEYS"):
        variables[name] = variables[name].replace("data/live", folders["/app/data/live"])
    Path("api").write_text(json.dumps(variables))
log = open(re.sub("\\\\W", "-", image) + ".log", "wb")
process = subprocess.Popen(command, cwd="ROOT", stdout=log, stderr=log, start_new_session=True, env={**os.environ, **variables})
with open("processes", "a") as file:
    print(process.pid, file=file)
"""


class Instance:
    "One that the stack has started, in a folder of its own."

    def __init__(self, account: Account, name: str, folder: Path, script: str, certificate: Path):  # noqa: F811
        self.folder, self.name, self.mlflow_port, self.api_port = folder, name, free_port(), free_port()
        self.mlflow, self.api = f"http://127.0.0.1:{self.mlflow_port}", f"http://127.0.0.1:{self.api_port}"
        for made in ("bin", "run"):
            (folder / made).mkdir(parents=True)
        (folder / "processes").touch()
        for program, text in (("AWS", AWS), ("DOCKER", DOCKER)):
            (folder / program).write_text(text.replace("ROOT", str(ROOT)).replace("API_PORT", str(self.api_port)))
        words = {"INSTANCE": name, "PYTHON": sys.executable, "CURL": shutil.which("curl")}
        words |= {program: f"{folder}/{program}" for program in ("AWS", "DOCKER")}
        for program, text in TOOLS.items():
            text = re.sub("|".join(words), lambda found: str(words[found[0]]), text)
            (folder / "bin" / program).write_text(f"#!/bin/sh\n{text}\n")
            (folder / "bin" / program).chmod(0o755)
        for there, here in (
            (r"/srv/mlops-fraud", f"{folder}/live"),
            (r"/usr/local/bin/", f"{folder}/"),
            (r"/etc/systemd/system/", f"{folder}/"),
            (r"/run/", f"{folder}/run/"),
            (r"\b5000\b", str(self.mlflow_port)),
            (r"127\.0\.0\.1:8000", f"127.0.0.1:{self.api_port}"),
            (r"^sleep 30$", ""),
        ):
            script, found = re.subn(there, here, script, flags=re.M)
            assert found, f"{there} is not in the script"
        self.script = script
        self.environment = {
            **os.environ,
            "PATH": f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": account.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "SSL_CERT_FILE": str(certificate),
        }

    def run(self, script: str) -> None:
        "Let it do as it is told."
        done = subprocess.run(["bash"], input=script, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600)
        logs = [log.read_text()[-1500:] for log in self.folder.glob("*.log")]
        assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *logs])

    def end(self) -> None:
        for started in (self.folder / "processes").read_text().split():
            os.killpg(int(started), signal.SIGTERM)


@pytest.mark.timeout(1200)  # MLflow makes its tables, twice two programs start, and a slow machine takes minutes
def test_instances_that_start_end_in_apis_that_answer_from_one_log(account: Account, project: Project, tmp_path: Path) -> None:  # noqa: F811
    def write_key(key: str) -> None:
        hashed = f"payments score {hashlib.sha256(key.encode()).hexdigest()}\n"
        account.client("ssm").put_parameter(Name="/mlops-fraud/keys", Value=hashed, Type="SecureString", Overwrite=True)

    def ask(instance: Instance, key: str, **changes: object) -> httpx.Response:
        payment = {"step": 700, "type": "PAYMENT", "amount": 181.0, "nameOrig": "C1", "nameDest": "M1"}
        return httpx.post(f"{instance.api}/predict", json=payment | changes, headers={"X-API-Key": key}, timeout=30)

    write_key("the first key")
    (group,) = account.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    versions = account.client("ec2").describe_launch_template_versions(LaunchTemplateId=account.resources["Template"])
    script = base64.b64decode(versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]["UserData"]).decode()
    assert len(script) < 16_384, "an instance takes no more"
    assert "not-a-real-one" not in script and "{{" not in script, "a secret would be readable to whoever may describe the instance"
    account.client("s3").head_bucket(Bucket=re.findall(r"s3://([\w-]+)/mlflow", script)[0])

    with ExitStack() as stack:
        log = stack.enter_context(postgres("postgres", PASSWORDS["database"], "other"))
        order = stack.enter_context(redis(tmp_path / "redis", "--requirepass", PASSWORDS["order"], tls=True))
        for there, here in (
            (r"^PGHOST=.*", f"PGHOST=127.0.0.1\nPGPORT={log.port}"),
            (r"^PGSSLMODE=require\n", ""),
            (r"@[\w.-]+:5432/(\w+)\?sslmode=require", rf"@127.0.0.1:{log.port}/\1"),
            (rf"rediss://(.*)@{re.escape(ORDER)}:6379", rf"rediss://\1@localhost:{order.port}"),
        ):
            script, found = re.subn(there, here, script, flags=re.M)
            assert found, f"{there} is not in the script"
        instances = [
            Instance(account, each["InstanceId"], tmp_path / each["InstanceId"], script, tmp_path / "redis/certificate")
            for each in group["Instances"]
        ]
        assert len(instances) == 2
        for instance in instances:
            stack.callback(instance.end)
        for instance in instances:
            instance.run(instance.script)
            assert (instance.folder / "signalled").read_text() == instance.name
            assert not list((instance.folder / "run").iterdir()), "secrets are left"

        first, second = instances
        registered = project.settings.model_copy(update={"mlflow_tracking_uri": first.mlflow})
        example = read_rows(project.rows, "validation").x[:5]
        registry.promote(registry.register(registry.load(project.settings).model, example, {}, registered), registered)
        for instance in instances:
            wait_for(f"{instance.api}/readyz", instance.folder)
        answers = [ask(instance, "the first key", transaction_id="once") for instance in instances]
        assert [(answer.status_code, answer.json()["model"]["version"]) for answer in answers] == [(200, "1"), (200, "1")]
        assert answers[0].content == answers[1].content and b"no order" not in answers[0].content
        deadline = time.monotonic() + 30
        while b"no order" in ask(second, "the first key").content:
            assert time.monotonic() < deadline, "the order is not found"
            time.sleep(0.2)

        first.run(f"{first.folder}/mlops-fraud-keep")
        (fetch,) = re.findall(r"aws s3 sync s3://\S+/states/ \$folder/", first.script)
        second.run(fetch.replace("$folder", f"{second.folder}/live"))
        (kept,), (fetched,) = ((each.folder / "live").glob("shared-*.npz") for each in instances)
        assert (kept.name, State.load(kept).n_events) == (fetched.name, State.load(fetched).n_events)
        assert State.load(kept).n_events > 0

        write_key("the next key")
        for instance in instances:
            instance.run(f"{instance.folder}/mlops-fraud-keys")
            assert [ask(instance, key).status_code for key in ("the first key", "the next key")] == [401, 200]


def wait_for(url: str, logs: Path, patience: float = 300.0) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "\n".join(log.read_text()[-1500:] for log in logs.glob("*.log"))
        time.sleep(0.2)
