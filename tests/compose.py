"""compose.yaml without containers: the same programs, with the environment and files that it gives them."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import httpx
import pytest
import yaml
from conftest import ROOT, Project, free_port
from engines import postgres, s3

from mlops_fraud import registry
from mlops_fraud.deployment.local import Server, running
from mlops_fraud.preprocessing import read_rows

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DASHBOARD = ROOT / "deploy/grafana/dashboards/mlops-fraud.json"
PAYMENT = {"step": 700, "type": "PAYMENT", "amount": 181.0, "nameOrig": "C1", "nameDest": "M1"}


class Services(NamedTuple):
    "Profile `full`, running, but for its pages."

    secrets: dict[str, str]  # .env
    s3: str
    mlflow: str
    api: str
    prometheus: str


class Compose:
    "What compose.yaml says, with the secrets of .env and each `name:port` where it listens here."

    def __init__(self, secrets: dict[str, str]):
        self.secrets, self.here = secrets, dict[str, str]()

    def environment(self, service: str) -> dict[str, str]:
        return {name: self._filled(str(value)) for name, value in SERVICES[service]["environment"].items()}

    def _filled(self, value: str) -> str:
        value = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: self.secrets[found[1]], value)
        for name, address in self.here.items():
            value = value.replace(name, address)
        return value

    def server(self, service: str, port: str, health: str, **changes: str) -> Server:
        "The command of `service`, or else the image's, on a free port in place of `port`."
        command = SERVICES[service].get("command") or json.loads(re.findall(r"^CMD (.+)", (ROOT / "Dockerfile").read_text(), re.M)[-1])
        free = str(free_port())
        command = [free if word == port else word for word in command]
        variables = [f"{name}={value}" for name, value in {**self.environment(service), **changes}.items()]
        self.here[f"{service}:{port}"] = f"127.0.0.1:{free}"
        return Server(service, ["env", *variables, *command], f"http://127.0.0.1:{free}", health)


def prometheus(folder: Path, compose: Compose) -> Server:
    "Prometheus with the files that compose.yaml mounts."
    files = Path(shutil.copytree(ROOT / "deploy/prometheus", folder / "prometheus"))
    (folder / "metrics_key").write_text(compose.secrets["METRICS_KEY"])
    text = (files / "prometheus.yml").read_text().replace("5s", "1s").replace("/run/secrets/metrics_key", str(folder / "metrics_key"))
    (files / "prometheus.yml").write_text(text.replace("api:8000", compose.here["api:8000"]))
    url = f"127.0.0.1:{free_port()}"
    options = {"config.file": files / "prometheus.yml", "storage.tsdb.path": folder / "series", "web.listen-address": url}
    return Server("prometheus", ["prometheus", *(f"--{name}={value}" for name, value in options.items())], f"http://{url}", "/-/ready")


@pytest.fixture(scope="module")
def services(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    "PostgreSQL, S3, MLflow on both with the champion of `project`, the API, and Prometheus."
    folder = tmp_path_factory.mktemp("compose")
    (folder / "scripts").mkdir()
    made = subprocess.run([sys.executable, shutil.copy(ROOT / "scripts/secrets", folder / "scripts")], capture_output=True, text=True)
    assert "made .env and data/live/keys.txt" in made.stdout
    compose = Compose(dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines()))
    with ExitStack() as stack:

        def start(server: Server) -> str:
            stack.enter_context(running([server], folder / "logs", ROOT))
            return server.url

        database = compose.environment("postgres")
        port = stack.enter_context(
            postgres(folder / "postgres", database["POSTGRES_USER"], database["POSTGRES_PASSWORD"], database["POSTGRES_DB"])
        )
        store = stack.enter_context(s3(folder / "logs"))
        compose.here |= {"postgres:5432": f"127.0.0.1:{port}", "http://s3:8333": store}
        subprocess.run(SERVICES["bucket"]["command"], env={**os.environ, **compose.environment("bucket")}, check=True)
        tracking = start(compose.server("mlflow", "5000", "/health"))

        example = read_rows(project.rows, "validation").x[:5]
        there = project.settings.model_copy(update={"mlflow_tracking_uri": tracking})
        registry.promote(registry.register(registry.load(project.settings).model, example, {}, there), there)

        live = {"KEYS": str(folder / "data/live/keys.txt"), "LEDGER": str(folder / "ledger.sqlite"), "HISTORY": ""}
        api = start(compose.server("api", "8000", "/readyz", **live))
        yield Services(compose.secrets, store, tracking, api, start(prometheus(folder, compose)))


def test_the_api_answers_with_a_model_from_postgresql_and_s3(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    kept = boto3.client("s3", endpoint_url=services.s3, region_name="us-east-1").list_objects_v2(Bucket="mlflow")["Contents"]
    assert any(each["Key"].endswith("model.ubj") for each in kept)
    answer = httpx.post(f"{services.api}/predict", json=PAYMENT, headers={"X-API-Key": services.secrets["APP_KEY"]}, timeout=30)
    assert answer.status_code == 200
    assert answer.json()["model"] == {"name": "mobile-money-fraud", "version": "1", "alias": "champion"}
    assert httpx.post(f"{services.api}/predict", json=PAYMENT).status_code == 401


def test_mlflow_answers_under_the_names_that_it_has_and_no_other(services: Services) -> None:
    experiments = f"{services.mlflow}/api/2.0/mlflow/experiments/search"
    asked = [httpx.post(experiments, json={"max_results": 1}, headers={"Host": host}) for host in ("mlflow:5000", "elsewhere.example")]
    assert [answer.status_code for answer in asked] == [200, 403]


def test_prometheus_reads_the_api_and_knows_every_figure_of_dashboard_and_alerts(services: Services) -> None:
    def ask(query: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{services.prometheus}/api/v1/query", params={"query": query.replace("$__rate_interval", "1m")}).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return answer["data"]["result"]

    refused = httpx.post(f"{services.api}/predict", json={}, headers={"X-API-Key": services.secrets["APP_KEY"]})
    assert refused.status_code == 422
    shown = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    deadline = time.monotonic() + 20  # a rate needs two looks
    while missing := [query for query in shown if not ask(query)]:
        assert time.monotonic() < deadline, f"nothing is known of {missing}"
        time.sleep(0.5)
    assert ask('up{job="api"}')[0]["value"][1] == "1"
    rules = httpx.get(f"{services.prometheus}/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert len(rules) == 4 and {rule["state"] for rule in rules} == {"inactive"}
    for rule in rules:
        for metric in re.findall(r"mlops_fraud_\w+", rule["query"]):
            assert ask(metric), f"{rule['name']} asks for {metric}, which the API does not have"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_keeps_to_itself(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"mlops-fraud(-all)?|[\w/-]+:v?\d[\w.-]*", service["image"]), "named by its version"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "reached from this machine alone"
    for folder in [volume.split(":")[0] for volume in service.get("volumes", []) if volume.startswith("./deploy")]:
        assert (ROOT / folder).is_dir()
    for other in service.get("depends_on", {}):
        assert set(service["profiles"]) <= set(SERVICES[other]["profiles"])
    secrets = [str(value) for variable, value in service.get("environment", {}).items() if re.search("PASSWORD|SECRET|_KEY$", variable)]
    assert all("${" in value for value in secrets), "no secret is written down"


@pytest.mark.parametrize("package", ["boto3", "mlflow", "psycopg", "streamlit"])
def test_the_image_has_what_the_test_takes_from_the_tests_own_packages(package: str) -> None:
    assert re.search(rf"^{package}==", (ROOT / "requirements/run.txt").read_text(), re.M)
