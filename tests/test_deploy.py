"""deploy/aws.yaml, applied to a server that answers like AWS."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import psycopg
import pytest
from cfnlint.decode import cfn_yaml
from conftest import ROOT
from engines import postgres, s3

PASSWORDS = {name: f"not-a-real-one-of-the-{name}" for name in ("database", "mlflow", "log", "order")}
STACK = "mlops-fraud"
ORDER = "order.cache.example.org"


class Account:
    "An account with a certificate, passwords and the stack of deploy/aws.yaml."

    def __init__(self, url: str):
        self.url = url
        for name, value in PASSWORDS.items():
            self.client("ssm").put_parameter(Name=f"/mlops-fraud/{name}-password", Value=value, Type="SecureString")
        given = {
            "CertificateArn": self.client("acm").request_certificate(DomainName="fraud.example.org")["CertificateArn"],
            "ClientCidr": "203.0.113.0/24",
            "AlarmEmail": "someone@example.org",
            "Image": "1",
        }
        self.client("cloudformation").create_stack(
            StackName=STACK,
            TemplateBody=json.dumps(template()),
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        cache, made = self.client("elasticache"), self.resources
        subnets = {**resource("OrderSubnets"), "SubnetIds": [made["PrivateA"], made["PrivateB"]]}
        cache.create_cache_subnet_group(CacheSubnetGroupName="order", CacheSubnetGroupDescription=subnets.pop("Description"), **subnets)
        own = {"CacheNodeType": "cache.t4g.micro", "CacheSubnetGroupName": "order", "AuthToken": PASSWORDS["order"]}
        order = {**resource("Order"), **own, "KmsKeyId": made["Key"], "SecurityGroupIds": [made["OrderGroup"]]}
        del order["CacheParameterGroupName"]
        cache.create_replication_group(ReplicationGroupId="order", **order)

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, endpoint_url=self.url, region_name="eu-north-1", **keys)

    @property
    def resources(self) -> dict[str, str]:
        "The names in the template, and what was made of each."
        listed = self.client("cloudformation").list_stack_resources(StackName=STACK)["StackResourceSummaries"]
        return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in listed}


def resource(name: str) -> dict[str, Any]:
    "The properties of one."
    return json.loads(json.dumps(cfn_yaml.load(str(ROOT / "deploy/aws.yaml"))))["Resources"][name]["Properties"]


def template() -> dict[str, Any]:
    "deploy/aws.yaml, less one property that the server stumbles over and four resources that it makes from no template."
    text = json.dumps(cfn_yaml.load(str(ROOT / "deploy/aws.yaml")))
    text = text.replace('{"Fn::GetAtt": ["Order", "PrimaryEndPoint.Address"]}', f'"{ORDER}"').replace('"${Order}-001"', '"order-001"')
    read = json.loads(text)
    del read["Resources"]["Database"]["Properties"]["DBParameterGroupName"]
    for name in ("Order", "OrderSubnets", "OrderParameters", "WithoutOrder"):
        del read["Resources"][name]
    return read


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with s3(tmp_path_factory.mktemp("aws")) as url:
        yield Account(url)


def test_all_of_it_is_made(account: Account) -> None:
    assert set(account.resources) >= {"Vpc", "Balancer", "Listener", "Group", "Database", "Store", "Registry", "Key"}
    assert not [each for each in template()["Resources"].values() if each["Type"] == "AWS::EC2::Volume"], "nothing is kept on an instance"


def test_nothing_is_reached_but_by_tls_from_the_clients(account: Account) -> None:
    groups = account.client("ec2").describe_security_groups(
        GroupIds=[account.resources[f"{n}Group"] for n in ("Balancer", "Instance", "Database", "Order")]
    )
    names = {group["GroupId"]: group["Description"] for group in groups["SecurityGroups"]}
    entries = {
        names[g["GroupId"]]: [
            (e["FromPort"], [r["CidrIp"] for r in e["IpRanges"]] + [names[r["GroupId"]] for r in e["UserIdGroupPairs"]])
            for e in g["IpPermissions"]
        ]
        for g in groups["SecurityGroups"]
    }
    assert entries == {
        "The load balancer": [(443, ["203.0.113.0/24"])],
        "The instances": [(8000, ["The load balancer"])],
        "PostgreSQL": [(5432, ["The instances"])],
        "Valkey": [(6379, ["The instances"])],
    }
    listeners = account.client("elbv2").describe_listeners(LoadBalancerArn=account.resources["Balancer"])["Listeners"]
    assert [(each["Protocol"], each["SslPolicy"]) for each in listeners] == [("HTTPS", "ELBSecurityPolicy-TLS13-1-2-2021-06")]
    database = account.client("rds").describe_db_instances()["DBInstances"][0]
    assert not database["PubliclyAccessible"] and database["StorageEncrypted"] and database["MultiAZ"]
    order = account.client("elasticache").describe_replication_groups()["ReplicationGroups"][0]
    assert order["TransitEncryptionEnabled"] and order["AuthTokenEnabled"] and order["AtRestEncryptionEnabled"]


def test_several_answer_in_both_zones_and_an_update_ends_none_before_another_answers(account: Account) -> None:
    group = account.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"][0]
    assert (group["MinSize"], group["DesiredCapacity"]) == (2, 2)
    assert set(group["VPCZoneIdentifier"].split(",")) == {account.resources["PrivateA"], account.resources["PrivateB"]}
    update = template()["Resources"]["Group"]["UpdatePolicy"]["AutoScalingRollingUpdate"]
    assert update["MinInstancesInService"] == {"Ref": "Instances"} and update["WaitOnResourceSignals"]
    assert group["MaxSize"] > template()["Parameters"]["Instances"]["MaxValue"], "else there is no room for one more while all answer"


def test_the_order_forgets_all_or_nothing() -> None:
    order = resource("Order")
    assert (order["NumCacheClusters"], order["SnapshotRetentionLimit"], order["AutomaticFailoverEnabled"]) == (1, 0, False)
    assert resource("OrderParameters")["Properties"] == {"maxmemory-policy": "noeviction"}


def test_an_instance_has_the_program_that_makes_the_databases() -> None:
    said = resource("Template")["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Sub"][0]
    assert f"<<'EOF'\n{(ROOT / 'deploy/database.py').read_text()}EOF\n" in said


def test_instances_that_start_at_once_make_a_role_and_a_database_for_each_program() -> None:
    def login(user: str, database: str) -> psycopg.Connection:
        where = f"host=127.0.0.1 port={server.port} user={user} dbname={database}"
        return psycopg.connect(where, password=f"the {user}'s", autocommit=True)

    with postgres("root", "the root's", "other") as server:
        # No superuser, as on RDS.
        login("root", "other").execute("CREATE ROLE operator LOGIN CREATEROLE CREATEDB PASSWORD 'the operator''s'")
        it = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "operator", "PGDATABASE": "postgres"}
        theirs = {"PGPASSWORD": "the operator's", "MLFLOW_PASSWORD": "the mlflow's", "FRAUD_PASSWORD": "the fraud's"}
        command = [sys.executable, str(ROOT / "deploy/database.py"), "mlflow", "fraud"]
        started = [subprocess.Popen(command, env={**os.environ, **it, **theirs}) for _ in range(2)]
        assert [each.wait() for each in started] == [0, 0]
        login("fraud", "fraud").execute("CREATE TABLE decisions (sequence BIGINT)")
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            login("fraud", "mlflow")
        assert "the fraud's" not in server.log.read_text()


def test_a_role_may_do_what_it_must_and_names_on_what() -> None:
    policies = template()["Resources"]["Role"]["Properties"]["Policies"]
    for statement in [each for policy in policies for each in policy["PolicyDocument"]["Statement"]]:
        assert "*" not in str(statement["Action"])
        assert statement["Resource"] != "*" or statement["Action"] == "ecr:GetAuthorizationToken"


def test_no_secret_is_in_the_template() -> None:
    assert resource("Database")["MasterUserPassword"] == "{{resolve:ssm-secure:/mlops-fraud/database-password}}"
    assert resource("Order")["AuthToken"] == "{{resolve:ssm-secure:/mlops-fraud/order-password}}"
