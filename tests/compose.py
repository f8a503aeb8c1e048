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
import psycopg
import pytest
import yaml
from conftest import ROOT, Project, free_port
from engines import Engine, postgres, redis, s3

from mlops_fraud import registry
from mlops_fraud.deployment.local import Server, running
from mlops_fraud.preprocessing import read_rows

pytestmark = pytest.mark.timeout(900)  # all services start before the first test
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DASHBOARD = ROOT / "deploy/grafana/dashboards/mlops-fraud.json"
PAYMENT = {"step": 700, "type": "PAYMENT", "amount": 181.0, "nameOrig": "C1", "nameDest": "M1"}


class Services(NamedTuple):
    "Profile `full`, running, but for its pages; and the API of `local`, on the registry of `full`."

    secrets: dict[str, str]  # .env
    folder: Path
    s3: str
    log: Engine
    order: Engine
    mlflow: str
    local: str
    apis: list[str]
    prometheus: str

    def ask(self, api: str, **changes: Any) -> httpx.Response:
        "What `api` answers to a payment with these changes."
        return httpx.post(f"{api}/predict", json=PAYMENT | changes, headers={"X-API-Key": self.secrets["APP_KEY"]}, timeout=30)


class Compose:
    "What compose.yaml says, with the secrets of .env and each `name:port` where it listens here."

    def __init__(self, secrets: dict[str, str]):
        self.secrets, self.here = secrets, dict[str, str]()

    def environment(self, service: str) -> dict[str, str]:
        return {name: self._filled(str(value)) for name, value in SERVICES[service]["environment"].items()}

    def _filled(self, value: str) -> str:
        for name, address in self.here.items():
            value = value.replace(name, address)
        return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: self.secrets[found[1]], value)

    def command(self, service: str) -> list[str]:
        "The command of `service`, or else the image's."
        command = SERVICES[service].get("command") or json.loads(re.findall(r"^CMD (.+)", (ROOT / "Dockerfile").read_text(), re.M)[-1])
        return [self._filled(word) for word in command]

    def run(self, service: str, **changes: str) -> None:
        "Let a service that ends do so, with the files that are mounted where they lie here."
        mounted = {there: str(ROOT / here) for here, there, _ in (each.split(":") for each in SERVICES[service].get("volumes", []))}
        command = [mounted.get(word, word) for word in self.command(service)]
        subprocess.run(command, env={**os.environ, **self.environment(service), **changes}, check=True)

    def server(self, service: str, port: str, health: str, **changes: str) -> Server:
        "The command of `service` on a free port in place of `port`."
        free = str(free_port())
        command = [free if word == port else word for word in self.command(service)]
        variables = [f"{name}={value}" for name, value in {**self.environment(service), **changes}.items()]
        self.here[f"{service}:{port}"] = f"127.0.0.1:{free}"
        return Server(f"{service}-{free}", ["env", *variables, *command], f"http://127.0.0.1:{free}", health)


def prometheus(folder: Path, compose: Compose, apis: list[str]) -> Server:
    "Prometheus with the files that compose.yaml mounts, and the APIs' addresses where it would ask for their name."
    files = Path(shutil.copytree(ROOT / "deploy/prometheus", folder / "prometheus"))
    (folder / "metrics_key").write_text(compose.secrets["METRICS_KEY"])
    said = yaml.safe_load((files / "prometheus.yml").read_text())
    (job,) = said["scrape_configs"]
    assert job["authorization"].pop("credentials_file") == "/run/secrets/metrics_key"
    assert [(each["names"], each["port"]) for each in job.pop("dns_sd_configs")] == [(["api"], 8000)]
    job["authorization"]["credentials_file"] = str(folder / "metrics_key")
    job["static_configs"] = [{"targets": [api.removeprefix("http://") for api in apis]}]
    said["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (files / "prometheus.yml").write_text(yaml.safe_dump(said))
    url = f"127.0.0.1:{free_port()}"
    options = {"config.file": files / "prometheus.yml", "storage.tsdb.path": folder / "series", "web.listen-address": url}
    return Server("prometheus", ["prometheus", *(f"--{name}={value}" for name, value in options.items())], f"http://{url}", "/-/ready")


@pytest.fixture(scope="module")
def services(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    "PostgreSQL, Redis, S3, MLflow with the champion of `project`, two APIs on one log and one on a file, and Prometheus."
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
        log = stack.enter_context(postgres(database["POSTGRES_USER"], database["POSTGRES_PASSWORD"], database["POSTGRES_DB"]))
        options = compose.command("redis")
        order = stack.enter_context(redis(folder / "redis", *options[options.index("--save") :]))
        store = stack.enter_context(s3(folder / "logs"))
        compose.here |= {"postgres:5432": f"127.0.0.1:{log.port}", "redis:6379": f"127.0.0.1:{order.port}", "http://s3:8333": store}
        compose.run("bucket")
        for _ in range(2):  # that they exist already is fine
            compose.run("database", PGHOST="127.0.0.1", PGPORT=str(log.port))
        tracking = start(compose.server("mlflow", "5000", "/health"))

        example = read_rows(project.rows, "validation").x[:5]
        there = project.settings.model_copy(update={"mlflow_tracking_uri": tracking})
        registry.promote(registry.register(registry.load(project.settings).model, example, {}, there), there)

        compose.here["mlflow:5000"] = tracking.removeprefix("http://")
        mounted = {"KEYS": str(folder / "data/live/keys.txt"), "HISTORY": ""}
        assert {"KEYS", "LEDGER", "ORDER", "BESIDE"} <= compose.environment("api").keys()
        local = start(compose.server("api-local", "8000", "/readyz", **mounted, LEDGER=str(folder / "local/ledger.sqlite")))
        apis = [
            start(compose.server("api", "8000", "/readyz", **mounted, BESIDE=str(folder / "live")))
            for _ in range(SERVICES["api"]["deploy"]["replicas"])
        ]
        watch = start(prometheus(folder, compose, apis))
        yield Services(compose.secrets, folder, store, log, order, tracking, local, apis, watch)


def test_the_api_answers_with_a_model_from_postgresql_and_s3(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    kept = boto3.client("s3", endpoint_url=services.s3, region_name="us-east-1").list_objects_v2(Bucket="mlflow")["Contents"]
    assert any(each["Key"].endswith("model.ubj") for each in kept)
    for api in (services.local, *services.apis):
        answer = services.ask(api)
        assert answer.status_code == 200
        assert answer.json()["model"] == {"name": "mobile-money-fraud", "version": "1", "alias": "champion"}
        assert httpx.post(f"{api}/predict", json=PAYMENT).status_code == 401


def test_two_apis_have_one_log_and_one_order(services: Services) -> None:
    first, second = services.apis
    answers = [services.ask(api, transaction_id="once").content for api in (first, second)]
    assert answers[0] == answers[1] and b"no order" not in answers[0]
    before, after = (httpx.get(f"{api}/readyz", headers={"X-API-Key": services.secrets["METRICS_KEY"]}).json() for api in services.apis)
    assert before["step"] == after["step"] == PAYMENT["step"]

    environment = {**os.environ, "REDISCLI_AUTH": services.secrets["REDIS_PASSWORD"]}

    def told(*words: str) -> str:
        asked = ["redis-cli", "-e", "-p", str(services.order.port), *words]
        return subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout

    assert told(*SERVICES["redis"]["healthcheck"]["test"][3:]) == "PONG\n"
    assert "stream" in told("TYPE", "{mlops-fraud}:events")
    assert told("CONFIG", "GET", "maxmemory-policy").split()[1] == "noeviction"
    services.order.end()  # it takes all of the order with it, and the log goes on
    answer = services.ask(second, transaction_id="alone")
    assert answer.status_code == 200 and b"no order" in answer.content
    services.order.start()
    deadline = time.monotonic() + 20
    while b"no order" in services.ask(second).content:
        assert time.monotonic() < deadline, "the order is not taken again"
        time.sleep(0.2)


@pytest.mark.parametrize(("role", "table", "other"), [("fraud", "decisions", "mlflow"), ("mlflow", "experiments", "fraud")])
def test_each_role_has_its_database_and_no_other(services: Services, role: str, table: str, other: str) -> None:
    def login(database: str, password: str) -> psycopg.Connection:
        return psycopg.connect(host="127.0.0.1", port=services.log.port, user=role, dbname=database, password=password)

    own = services.secrets[f"{role.upper()}_PASSWORD"]
    with login(role, own) as database:
        found = database.execute("SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
        assert found == (False, False, False)
        assert database.execute(f"SELECT count(*) FROM {table}").fetchone() != (0,)
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        login(other, own)
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        login(role, services.secrets["POSTGRES_PASSWORD"])


def test_secrets_complete_what_an_older_version_made(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts/secrets", tmp_path / "scripts")
    old = "POSTGRES_PASSWORD=a\nS3_PASSWORD=b\nGRAFANA_PASSWORD=c\nAPP_KEY=d\nMETRICS_KEY=e\nUID=1000\n"
    (tmp_path / ".env").write_text(old)
    said = [subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert said[0].startswith("made .env") and "stays as it is" in said[1]
    made = (tmp_path / ".env").read_text()
    assert made.startswith(old) and re.fullmatch(
        r"FRAUD_PASSWORD=\w{48}\nMLFLOW_PASSWORD=\w{48}\nREDIS_PASSWORD=\w{48}\n", made.removeprefix(old)
    )
    assert not (tmp_path / "data/live/keys.txt").read_text(), "its keys are in the file that it has"


def test_mlflow_answers_under_the_names_that_it_has_and_no_other(services: Services) -> None:
    experiments = f"{services.mlflow}/api/2.0/mlflow/experiments/search"
    asked = [httpx.post(experiments, json={"max_results": 1}, headers={"Host": host}) for host in ("mlflow:5000", "elsewhere.example")]
    assert [answer.status_code for answer in asked] == [200, 403]


def test_prometheus_reads_the_api_and_knows_every_figure_of_dashboard_and_alerts(services: Services) -> None:
    def ask(query: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{services.prometheus}/api/v1/query", params={"query": query.replace("$__rate_interval", "1m")}).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return answer["data"]["result"]

    refused = httpx.post(f"{services.apis[0]}/predict", json={}, headers={"X-API-Key": services.secrets["APP_KEY"]})
    assert refused.status_code == 422
    shown = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    deadline = time.monotonic() + 20  # a rate needs two looks
    while missing := [query for query in shown if not ask(query)]:
        assert time.monotonic() < deadline, f"nothing is known of {missing}"
        time.sleep(0.5)
    assert [each["value"][1] for each in ask('up{job="api"}')] == ["1", "1"]
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
        assert (ROOT / folder).exists()
    for other in service.get("depends_on", {}):
        assert set(service["profiles"]) <= set(SERVICES[other]["profiles"])
    secrets = [str(value) for variable, value in service.get("environment", {}).items() if re.search("PASSWORD|SECRET|_KEY$", variable)]
    assert all("${" in value for value in secrets), "no secret is written down"


@pytest.mark.parametrize("package", ["boto3", "mlflow", "psycopg", "streamlit"])
def test_the_image_has_what_the_test_takes_from_the_tests_own_packages(package: str) -> None:
    assert re.search(rf"^{package}==", (ROOT / "requirements/run.txt").read_text(), re.M)
