"""deploy/aws.yaml, applied to a server that answers like AWS."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from cfnlint.decode import cfn_yaml
from conftest import ROOT
from engines import s3

PASSWORD = "not-a-real-one"
STACK = "mlops-fraud"


class Account:
    "An account with a certificate, a password and the stack of deploy/aws.yaml."

    def __init__(self, url: str):
        self.url = url
        self.client("ssm").put_parameter(Name="/mlops-fraud/database-password", Value=PASSWORD, Type="SecureString")
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

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, endpoint_url=self.url, region_name="eu-north-1", **keys)

    @property
    def resources(self) -> dict[str, str]:
        "The names in the template, and what was made of each."
        listed = self.client("cloudformation").list_stack_resources(StackName=STACK)["StackResourceSummaries"]
        return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in listed}


def template() -> dict[str, Any]:
    "deploy/aws.yaml, less one property that the server stumbles over."
    read = json.loads(json.dumps(cfn_yaml.load(str(ROOT / "deploy/aws.yaml"))))
    del read["Resources"]["Database"]["Properties"]["DBParameterGroupName"]
    return read


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with s3(tmp_path_factory.mktemp("aws")) as url:
        yield Account(url)


def test_all_of_it_is_made(account: Account) -> None:
    assert set(account.resources) >= {"Vpc", "Balancer", "Listener", "Group", "Database", "Store", "Registry", "LogVolume", "Key"}


def test_nothing_is_reached_but_by_tls_from_the_clients(account: Account) -> None:
    groups = account.client("ec2").describe_security_groups(
        GroupIds=[account.resources[f"{n}Group"] for n in ("Balancer", "Instance", "Database")]
    )
    entries = {
        g["Description"]: [(e["FromPort"], [r["CidrIp"] for r in e["IpRanges"]]) for e in g["IpPermissions"]]
        for g in groups["SecurityGroups"]
    }
    assert entries == {"The load balancer": [(443, ["203.0.113.0/24"])], "The instance": [(8000, [])], "PostgreSQL": [(5432, [])]}
    listeners = account.client("elbv2").describe_listeners(LoadBalancerArn=account.resources["Balancer"])["Listeners"]
    assert [(each["Protocol"], each["SslPolicy"]) for each in listeners] == [("HTTPS", "ELBSecurityPolicy-TLS13-1-2-2021-06")]
    database = account.client("rds").describe_db_instances()["DBInstances"][0]
    assert not database["PubliclyAccessible"] and database["StorageEncrypted"]


def test_there_is_one_instance_since_the_log_has_one_writer(account: Account) -> None:
    group = account.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"][0]
    assert (group["MinSize"], group["MaxSize"]) == (1, 1)
    assert group["VPCZoneIdentifier"] == account.resources["PrivateA"]
    assert template()["Resources"]["LogVolume"]["Properties"]["AvailabilityZone"] == {"Fn::GetAtt": ["PrivateA", "AvailabilityZone"]}


def test_a_role_may_do_what_it_must_and_names_on_what() -> None:
    policies = template()["Resources"]["Role"]["Properties"]["Policies"]
    for statement in [each for policy in policies for each in policy["PolicyDocument"]["Statement"]]:
        assert "*" not in str(statement["Action"])
        assert statement["Resource"] != "*" or statement["Action"] == "ecr:GetAuthorizationToken"


def test_no_secret_is_in_the_template() -> None:
    assert "{{resolve:ssm-secure:/mlops-fraud/database-password}}" in (ROOT / "deploy/aws.yaml").read_text()
