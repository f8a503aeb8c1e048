"""What an instance of deploy/aws.yaml does when it starts, done here: does it end in an API that answers?

The script is the one that the stack hands to the instance, its secrets come from the account's Systems Manager and its
volume from the account's EC2. What this machine has not got, it finds first on PATH: Amazon's Linux, its metadata,
a block device, and Docker, in whose place the image's command runs as a process.
"""

import base64
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from conftest import ROOT, Project, free_port
from engines import postgres
from test_deploy import PASSWORD, Account, account  # noqa: F401

from mlops_fraud import registry
from mlops_fraud.preprocessing import read_rows

TOOLS = {
    "dnf": "exit 0",
    "systemctl": "exit 0",
    "blkid": "exit 1",  # nothing is on the volume yet
    "mkfs": 'echo "$@" >>made',
    "mount": "exit 0",
    "chown": "exit 0",
    "curl": 'case "$*" in *instance-id) echo INSTANCE ;; *) echo token ;; esac',
    "aws": 'exec PYTHON AWS "$@"',
    "docker": 'exec PYTHON DOCKER "$@"',
}

AWS = """
import os, sys, boto3
words = dict(zip(sys.argv[1:], sys.argv[2:]))
client = lambda name: boto3.client(name, endpoint_url=os.environ["AWS_ENDPOINT_URL"])
match sys.argv[1:3]:
    case "ec2", "attach-volume":
        client("ec2").attach_volume(VolumeId=words["--volume-id"], InstanceId=words["--instance-id"], Device=words["--device"])
    case "ssm", "get-parameter":
        print(client("ssm").get_parameter(Name=words["--name"], WithDecryption=True)["Parameter"]["Value"])
    case "ecr", "get-login-password":
        print(client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"])
    case "s3", "sync":
        assert words["sync"].endswith("/history/"), words
    case other:
        sys.exit(f"aws {other} is not known")
"""

DOCKER = """
import json, os, re, subprocess, sys
from pathlib import Path
if sys.argv[1] == "login":
    sys.exit(not sys.stdin.read())
if sys.argv[1] != "run":
    sys.exit()
words, variables, folders, flags = sys.argv[2:], {}, {}, set()
while words[0].startswith("--"):
    match flag := words.pop(0):
        case "--env": name, _, value = words.pop(0).partition("="); variables[name] = value
        case "--env-file": variables |= dict(line.split("=", 1) for line in Path(words.pop(0)).read_text().splitlines())
        case "--volume": here, _, there = words.pop(0).partition(":"); folders[there] = here
        case "--detach" | "--read-only" | "--no-healthcheck": flags.add(flag)
        case _: flags.add(f"{flag} {words.pop(0)}")
assert {"--read-only", "--cap-drop ALL", "--network host", "--restart always"} <= flags, flags
image, command = words[0], words[1:]
if not command:
    command = json.loads(re.findall("^CMD (.+)", Path("ROOT/Dockerfile").read_text(), re.M)[-1])
    command[command.index("8000")] = "API_PORT"
    variables["LEDGER"] = folders["/app/data/live"] + "/ledger.sqlite"
    variables["KEYS"] = variables["KEYS"].replace("data/live", folders["/app/data/live"])
log = open(re.sub("\\\\W", "-", image) + ".log", "wb")
process = subprocess.Popen(command, cwd="ROOT", stdout=log, stderr=log, start_new_session=True, env={**os.environ, **variables})
with open("processes", "a") as file:
    print(process.pid, file=file)
"""


def test_an_instance_that_starts_ends_in_an_api_that_answers(account: Account, project: Project, tmp_path: Path) -> None:  # noqa: F811
    key, api_port, mlflow_port = "a key of the payment system's", free_port(), free_port()
    hashed = f"payments score {hashlib.sha256(key.encode()).hexdigest()}\n"
    account.client("ssm").put_parameter(Name="/mlops-fraud/keys", Value=hashed, Type="SecureString")
    instance = account.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"][0]["Instances"][0]["InstanceId"]
    volume = account.resources["LogVolume"]

    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("AWS", AWS), ("DOCKER", DOCKER)):
        (tmp_path / name).write_text(text.replace("ROOT", str(ROOT)).replace("API_PORT", str(api_port)))
    for name, text in TOOLS.items():
        for word, value in (
            ("INSTANCE", instance),
            ("PYTHON", sys.executable),
            ("AWS", str(tmp_path / "AWS")),
            ("DOCKER", str(tmp_path / "DOCKER")),
        ):
            text = text.replace(word, value) if name in ("curl", "aws", "docker") else text
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    (tmp_path / "run").mkdir()
    (tmp_path / "device").touch()
    (tmp_path / "processes").touch()

    versions = account.client("ec2").describe_launch_template_versions(LaunchTemplateId=account.resources["Template"])
    script = base64.b64decode(versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]["UserData"]).decode()
    assert PASSWORD not in script and "{{" not in script, "a secret would be readable to whoever may describe the instance"
    account.client("s3").head_bucket(Bucket=re.findall(r"s3://([\w-]+)/mlflow", script)[0])

    with postgres(tmp_path / "postgres", "mlflow", PASSWORD, "mlflow") as port:
        for there, here in (
            (r"/srv/mlops-fraud", f"{tmp_path}/log"),
            (r"/usr/local/bin/mlops-fraud-start", f"{tmp_path}/start"),
            (r"\bmlops-fraud-start$", f"{tmp_path}/start"),
            (r"/run/", f"{tmp_path}/run/"),
            (r"^device=.*", f"device={tmp_path}/device"),
            (r"@[\w.-]+:5432/mlflow\?sslmode=require", f"@127.0.0.1:{port}/mlflow"),
            (r"\b5000\b", str(mlflow_port)),
        ):
            script = re.sub(there, here, script, flags=re.M)
        environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": account.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        try:
            done = subprocess.run(["bash"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "-t xfs" in (tmp_path / "made").read_text()
            attached = account.client("ec2").describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"]
            assert [each["InstanceId"] for each in attached] == [instance]

            wait_for(f"http://127.0.0.1:{mlflow_port}/health", tmp_path)
            registered = project.settings.model_copy(update={"mlflow_tracking_uri": f"http://127.0.0.1:{mlflow_port}"})
            example = read_rows(project.rows, "validation").x[:5]
            registry.promote(registry.register(registry.load(project.settings).model, example, {}, registered), registered)
            api = f"http://127.0.0.1:{api_port}"
            wait_for(f"{api}/readyz", tmp_path)
            payment = {"step": 700, "type": "PAYMENT", "amount": 181.0, "nameOrig": "C1", "nameDest": "M1"}
            answer = httpx.post(f"{api}/predict", json=payment, headers={"X-API-Key": key}, timeout=30)
            assert answer.status_code == 200 and answer.json()["model"]["version"] == "1"
            assert (tmp_path / "log/ledger.sqlite").exists()
        finally:
            for started in (tmp_path / "processes").read_text().split():
                os.killpg(int(started), signal.SIGTERM)


def wait_for(url: str, logs: Path, patience: float = 120.0) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "\n".join(log.read_text()[-1500:] for log in logs.glob("*.log"))
        time.sleep(0.2)
