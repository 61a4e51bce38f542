"""The cloud's API, asked with boto3 over HTTP, on machines that do what a test says."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from api_lab import AMI, CREDENTIALS, PUBLIC_KEY, REGION, SESSION, FakeMachines, Lab, refused

from nomad_testkit.ec2.api.service import CloudApi
from nomad_testkit.ec2.machines.spec import ImageRecord
from nomad_testkit.errors import Ec2Error
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until


def become(lab: Lab, image_id: str, state: str) -> dict[str, Any]:
    def probe() -> Ok[dict[str, Any]] | Pending:
        image = lab.ec2.describe_images(ImageIds=[image_id])["Images"][0]
        return Ok(image) if image["State"] == state else Pending(image["State"])

    return wait_until(f"the image to be {state}", probe, deadline=Deadline.after(10), interval=0.02)


def test_an_instance_goes_through_its_states_as_its_machine_does(lab: Lab) -> None:
    launched = lab.run()
    instance_id = launched["InstanceId"]
    assert launched["State"] == {"Code": 0, "Name": "pending"}
    assert lab.state(instance_id) == "pending"
    lab.api.running(instance_id)
    assert lab.instance(instance_id)["State"] == {"Code": 16, "Name": "running"}

    lab.ec2.stop_instances(InstanceIds=[instance_id])
    assert lab.state(instance_id) == "stopping"
    lab.api.stopped(instance_id, None)
    stopped = lab.instance(instance_id)
    assert stopped["State"]["Name"] == "stopped"
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert stopped["StateTransitionReason"].startswith("User initiated (")
    assert "PublicIpAddress" not in stopped
    assert stopped["PrivateIpAddress"] == launched["PrivateIpAddress"]

    lab.ec2.start_instances(InstanceIds=[instance_id])
    assert lab.state(instance_id) == "pending"
    lab.api.running(instance_id)
    started = lab.instance(instance_id)
    assert started["State"]["Name"] == "running"
    assert started["PublicIpAddress"] == launched["PublicIpAddress"]
    assert "StateReason" not in started

    lab.ec2.reboot_instances(InstanceIds=[instance_id])
    lab.ec2.terminate_instances(InstanceIds=[instance_id])
    assert lab.state(instance_id) == "shutting-down"
    lab.api.terminated(instance_id, None)
    ended = lab.instance(instance_id)
    assert ended["State"] == {"Code": 48, "Name": "terminated"}
    assert ended["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert "PrivateIpAddress" not in ended
    assert ended["NetworkInterfaces"] == []
    assert lab.ec2.describe_network_interfaces()["NetworkInterfaces"] == []
    assert lab.ec2.describe_volumes()["Volumes"] == []
    assert lab.api.instance(launched["PrivateIpAddress"]) is None
    assert [entry[0] for entry in lab.machines.asked] == ["launch", "stop", "start", "reboot", "terminate"]


def test_a_machine_that_cannot_be_launched_or_booted_is_a_terminated_instance_with_a_reason(lab: Lab) -> None:
    booting = lab.run()["InstanceId"]
    lab.api.terminated(booting, "the host ended with status 1; its console ends with: no init")
    lab.machines.failing_launch = "no layers"
    for instance_id, reason in ((booting, "no init"), (lab.run()["InstanceId"], "no layers")):
        ended = lab.instance(instance_id)
        assert (ended["State"]["Name"], ended["StateReason"]["Code"]) == ("terminated", "Server.InternalError")
        assert reason in ended["StateReason"]["Message"]


def test_a_host_that_shuts_itself_down(lab: Lab) -> None:
    first = lab.running()
    lab.api.stopped(first, "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
    assert lab.instance(first)["StateReason"] == {
        "Code": "Client.InstanceInitiatedShutdown",
        "Message": "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    }
    second = lab.running(InstanceInitiatedShutdownBehavior="terminate")
    lab.api.stopped(second, None)
    assert lab.state(second) == "shutting-down"
    assert lab.machines.asked[-1] == ("terminate", second, True)
    lab.api.terminated(second, None)
    assert lab.instance(second)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_the_end_of_a_machine_beats_its_late_start(lab: Lab) -> None:
    instance_id = lab.run()["InstanceId"]
    lab.ec2.terminate_instances(InstanceIds=[instance_id])
    lab.api.running(instance_id)
    assert lab.state(instance_id) == "shutting-down"
    lab.api.running("i-unknown")
    lab.api.stopped("i-unknown", None)
    lab.api.terminated("i-unknown", None)
    lab.api.reachable("i-unknown", True)


@pytest.mark.parametrize("parameter", ["Force", "SkipOsShutdown"])
def test_power_is_cut_where_the_request_says_so(lab: Lab, parameter: str) -> None:
    instance_id = lab.running()
    lab.ec2.stop_instances(InstanceIds=[instance_id], **{parameter: True})
    lab.ec2.terminate_instances(InstanceIds=[instance_id])
    lab.ec2.terminate_instances(InstanceIds=[instance_id], **{parameter: True})
    assert [entry[2] for entry in lab.machines.asked if len(entry) == 3] == [True, False, True]


def test_requests_in_the_wrong_state_are_refused(lab: Lab) -> None:
    instance_id = lab.run()["InstanceId"]
    message = refused("IncorrectInstanceState", lab.ec2.stop_instances, InstanceIds=[instance_id])
    assert message == f"The instance '{instance_id}' is not in a state from which it can be stopped."
    refused("IncorrectInstanceState", lab.ec2.create_image, InstanceId=instance_id, Name="early")
    refused("InvalidInstanceID.NotFound", lab.ec2.terminate_instances, InstanceIds=["i-0123456789abcdef0"])


def test_status_checks_and_the_console_are_the_hosts(lab: Lab) -> None:
    instance_id = lab.run()["InstanceId"]

    def checks() -> list[str]:
        answer = lab.ec2.describe_instance_status(InstanceIds=[instance_id], IncludeAllInstances=True)
        (status,) = answer["InstanceStatuses"]
        return [status["InstanceState"]["Name"], status["InstanceStatus"]["Status"], status["SystemStatus"]["Status"]]

    assert checks() == ["pending", "not-applicable", "not-applicable"]
    lab.api.running(instance_id)
    assert checks() == ["running", "initializing", "initializing"]
    lab.api.reachable(instance_id, True)
    assert checks() == ["running", "ok", "ok"]
    lab.api.reachable(instance_id, False)
    assert checks() == ["running", "impaired", "ok"]
    lab.api.running(instance_id)  # a reboot
    assert checks() == ["running", "initializing", "initializing"]
    assert lab.ec2.get_console_output(InstanceId=instance_id)["Output"] == f"console of {instance_id}: ä\n"


def test_addresses_come_from_the_subnet_and_map_to_public_ones(lab: Lab) -> None:
    subnet = lab.three[1]
    network = ipaddress.IPv4Network(lab.subnets[subnet]["CidrBlock"])
    answer = lab.ec2.run_instances(ImageId=AMI, MinCount=1, MaxCount=3, SubnetId=subnet, InstanceType="t3.micro")
    instances = answer["Instances"]
    assert [instance["PrivateIpAddress"] for instance in instances] == [str(network[4 + n]) for n in range(3)]
    for instance in instances:
        private = instance["PrivateIpAddress"]
        assert instance["PublicIpAddress"] == private.replace("172.31.", "127.31.", 1)
        assert instance["PrivateDnsName"] == f"ip-{private.replace('.', '-')}.ec2.internal"
        spec = lab.machines.specs[instance["InstanceId"]]
        assert (spec.private_ip, spec.hostname) == (private, instance["PrivateDnsName"])
        assert spec.subnet_cidr == str(network)
        assert spec.mac == instance["NetworkInterfaces"][0]["MacAddress"]
    first = instances[0]["InstanceId"]
    lab.ended(first)
    assert lab.run(SubnetId=subnet)["PrivateIpAddress"] == str(network[7])  # not at once the one just freed


def test_an_instance_without_a_public_address(lab: Lab) -> None:
    interface = {"DeviceIndex": 0, "SubnetId": lab.three[0], "AssociatePublicIpAddress": False}
    instance_id = lab.run(NetworkInterfaces=[interface])["InstanceId"]
    assert "PublicIpAddress" not in lab.instance(instance_id)
    assert lab.view(instance_id).public_ip is None
    assert "PublicIpAddress" not in lab.instance(lab.run(SubnetId=lab.subnet("172.31.200.0/24"))["InstanceId"])


def test_the_address_and_the_subnet_have_to_be_free_and_where_there_are_hosts(lab: Lab) -> None:
    subnet = lab.three[0]
    address = str(ipaddress.IPv4Network(lab.subnets[subnet]["CidrBlock"])[77])
    assert lab.run(SubnetId=subnet, PrivateIpAddress=address)["PrivateIpAddress"] == address
    refused("InvalidIPAddress.InUse", lab.run, SubnetId=subnet, PrivateIpAddress=address)
    refused("InvalidParameterValue", lab.run, SubnetId=subnet, PrivateIpAddress="10.0.0.9")

    full = lab.subnet("172.31.250.0/28")
    lab.run(SubnetId=full, MinCount=11, MaxCount=11)
    refused("InsufficientFreeAddressesInSubnet", lab.run, SubnetId=full)

    elsewhere = lab.subnet("10.9.0.0/24", lab.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"])
    message = refused("Unsupported", lab.run, SubnetId=elsewhere)
    assert message == f"Subnet {elsewhere} is 10.9.0.0/24: there are hosts in 172.31.0.0/16 only"


def test_bad_launches_are_refused_as_aws_words_it(lab: Lab) -> None:
    large = base64.b64encode(b"x" * 16385).decode()
    for code, request, message in (
        ("InvalidAMIID.NotFound", {"ImageId": "ami-" + "0" * 17}, f"The image id '[ami-{'0' * 17}]' does not exist"),
        ("InvalidAMIID.Malformed", {"ImageId": "debian"}, None),
        ("InvalidKeyPair.NotFound", {"KeyName": "nobody's"}, "The key pair 'nobody's' does not exist"),
        ("InvalidParameterValue", {"InstanceType": "t9.colossal"}, None),
        ("InvalidParameterValue", {"IamInstanceProfile": {"Name": "missing"}}, None),
        ("InvalidParameterValue", {"UserData": "x" * 16385}, "User data is limited to 16384 bytes"),
    ):
        assert refused(code, lab.run, **request) == message or message is None
    refused("InvalidParameterValue", lab.template, UserData=large)
    lab.run(UserData="x" * 16384)
    lab.machines.images.clear()
    refused("InvalidAMIID.Unavailable", lab.run)


def test_only_the_clouds_own_images_exist(lab: Lab) -> None:
    (image,) = lab.ec2.describe_images()["Images"]
    assert image["ImageId"] == AMI
    assert (image["RootDeviceType"], image["RootDeviceName"]) == ("ebs", "/dev/xvda")
    (device,) = image["BlockDeviceMappings"]
    assert device["DeviceName"] == "/dev/xvda"
    assert device["Ebs"]["SnapshotId"].startswith("snap-")
    assert [found["ImageId"] for found in lab.ec2.describe_images(Owners=["self"])["Images"]] == [AMI]


def test_root_volume_size(lab: Lab) -> None:
    first, second = lab.run(), lab.run(BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 50}}])
    sizes = [lab.machines.specs[instance["InstanceId"]].root_volume_gib for instance in (first, second)]
    assert sizes == [8, 50]
    volumes = [each["DeviceName"] for each in lab.instance(second["InstanceId"])["BlockDeviceMappings"]]
    assert volumes == ["/dev/xvda"]
    small = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}]
    refused("InvalidBlockDeviceMapping", lab.run, BlockDeviceMappings=small)


def test_volumes_are_as_they_were_asked_for(lab: Lab) -> None:
    fast = {"VolumeSize": 9, "VolumeType": "io1", "Iops": 300, "DeleteOnTermination": False, "Encrypted": True}
    devices = [
        {"DeviceName": "/dev/xvda", "Ebs": fast},
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 2, "VolumeType": "gp3", "Throughput": 200}},
    ]
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "nomad-testkit-run", "Value": "x"}]}]
    template = lab.template(BlockDeviceMappings=devices, TagSpecifications=tags)
    answer = lab.ec2.run_instances(LaunchTemplate={"LaunchTemplateId": template}, MinCount=1, MaxCount=1)
    instance_id = answer["Instances"][0]["InstanceId"]
    volumes = lab.ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}])["Volumes"]
    shown = {one["Attachments"][0]["Device"]: one for one in volumes}
    root, extra = shown["/dev/xvda"], shown["/dev/sdf"]
    assert (root["VolumeType"], root["Size"], root["Iops"], root["Encrypted"]) == ("io1", 9, 300, True)
    assert (extra["VolumeType"], extra["Size"], extra["Throughput"], extra["Encrypted"]) == ("gp3", 2, 200, False)
    assert root["Tags"] == extra["Tags"] == [{"Key": "nomad-testkit-run", "Value": "x"}]
    assert lab.view(instance_id).block_devices == ("/dev/sdf",)
    lab.ended(instance_id)
    (left,) = lab.ec2.describe_volumes()["Volumes"]
    assert (left["VolumeId"], left["State"]) == (root["VolumeId"], "available")


def test_interfaces_bear_the_tags_of_the_template_and_of_the_request(lab: Lab) -> None:
    def tagged(key: str) -> list[dict[str, Any]]:
        return [{"ResourceType": "network-interface", "Tags": [{"Key": key, "Value": "x"}]}]

    template = lab.template(TagSpecifications=tagged("of-the-template"))
    for launch in ({"LaunchTemplate": {"LaunchTemplateId": template}}, {"ImageId": AMI, "InstanceType": "t3.micro"}):
        answer = lab.ec2.run_instances(MinCount=1, MaxCount=1, TagSpecifications=tagged("of-the-request"), **launch)
        (interface,) = answer["Instances"][0]["NetworkInterfaces"]
        described = lab.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface["NetworkInterfaceId"]])
        keys = {tag["Key"] for tag in described["NetworkInterfaces"][0]["TagSet"]}
        assert keys == {"of-the-request"} | ({"of-the-template"} if "LaunchTemplate" in launch else set())


def test_tenancy_and_the_spot_market_are_told(lab: Lab) -> None:
    data = {"Placement": {"Tenancy": "dedicated"}, "InstanceMarketOptions": {"MarketType": "spot"}}
    from_template = {"LaunchTemplateId": lab.template(**data)}
    (launched,) = lab.ec2.run_instances(LaunchTemplate=from_template, MinCount=1, MaxCount=1)["Instances"]
    shown = lab.instance(launched["InstanceId"])
    assert (shown["Placement"]["Tenancy"], shown["InstanceLifecycle"]) == ("dedicated", "spot")
    assert lab.view(launched["InstanceId"]).lifecycle == "spot"
    direct = lab.instance(lab.run(Placement={"Tenancy": "dedicated"})["InstanceId"])
    assert direct["Placement"]["Tenancy"] == "dedicated"
    after = lab.instance(lab.run()["InstanceId"])
    assert (after["Placement"]["Tenancy"], after.get("InstanceLifecycle")) == ("default", None)


def test_a_registered_image_can_be_described_and_not_launched(lab: Lab) -> None:
    image = lab.ec2.register_image(Name="mine", Architecture="arm64", RootDeviceName="/dev/sda1")["ImageId"]
    (shown,) = lab.ec2.describe_images(ImageIds=[image])["Images"]
    assert (shown["Architecture"], shown["RootDeviceName"], shown["State"]) == ("arm64", "/dev/sda1", "available")
    refused("InvalidAMIID.Unavailable", lab.run, ImageId=image)


def test_an_image_of_a_running_instance_stops_and_starts_its_machine(lab: Lab) -> None:
    instance_id = lab.running()
    tags = [{"ResourceType": kind, "Tags": [{"Key": "a", "Value": kind}]} for kind in ("image", "snapshot")]
    image_id = lab.ec2.create_image(InstanceId=instance_id, Name="mine", TagSpecifications=tags)["ImageId"]
    assert lab.machines.asked[-1] == ("stop", instance_id, False)
    assert lab.ec2.describe_images(ImageIds=[image_id])["Images"][0]["State"] == "pending"
    refused("InvalidAMIName.Duplicate", lab.ec2.create_image, InstanceId=instance_id, Name="mine")
    refused("InvalidAMIID.Unavailable", lab.run, ImageId=image_id)
    lab.api.stopped(instance_id, None)
    image = become(lab, image_id, "available")
    assert image["RootDeviceType"] == "ebs"
    assert image["Tags"] == [{"Key": "a", "Value": "image"}]
    snapshots = [image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]]
    (snapshot,) = lab.ec2.describe_snapshots(SnapshotIds=snapshots)["Snapshots"]
    assert snapshot["Tags"] == [{"Key": "a", "Value": "snapshot"}]

    def restarted() -> Ok[None] | Pending:
        return Ok(None) if lab.machines.asked[-1] == ("start", instance_id) else Pending(str(lab.machines.asked[-1]))

    wait_until("the machine to be started again", restarted, deadline=Deadline.after(10), interval=0.02)
    assert lab.state(instance_id) == "running"
    assert lab.instance(lab.run(ImageId=image_id)["InstanceId"])["ImageId"] == image_id
    lab.ec2.deregister_image(ImageId=image_id)
    assert not lab.machines.has_image(image_id)
    refused("InvalidAMIID.NotFound", lab.run, ImageId=image_id)


def test_an_image_without_a_reboot_and_of_a_stopped_instance(lab: Lab) -> None:
    instance_id = lab.running()
    image_id = lab.ec2.create_image(InstanceId=instance_id, Name="live", NoReboot=True)["ImageId"]
    become(lab, image_id, "available")
    lab.halted(instance_id)
    become(lab, lab.ec2.create_image(InstanceId=instance_id, Name="cold")["ImageId"], "available")
    assert [entry[0] for entry in lab.machines.asked] == ["launch", "snapshot", "stop", "snapshot"]
    assert lab.state(instance_id) == "stopped"


def test_an_image_that_fails_says_why(lab: Lab) -> None:
    instance_id = lab.running()
    lab.machines.failing_snapshot = "no space left"
    image_id = lab.ec2.create_image(InstanceId=instance_id, Name="first", NoReboot=True)["ImageId"]
    assert "no space left" in become(lab, image_id, "failed")["StateReason"]["Message"]
    waiting = lab.ec2.create_image(InstanceId=instance_id, Name="second")["ImageId"]
    lab.api.terminated(instance_id, "it crashed")
    assert "terminated" in become(lab, waiting, "failed")["StateReason"]["Message"]


def test_an_instance_as_its_metadata_service_sees_it(lab: Lab) -> None:
    lab.ec2.import_key_pair(KeyName="key", PublicKeyMaterial=PUBLIC_KEY.encode())
    lab.profile()
    instance_id = lab.running(
        KeyName="key",
        UserData="#!/bin/sh\n",
        IamInstanceProfile={"Name": "profile"},
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "InstanceMetadataTags": "enabled"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "one"}]}],
    )
    view = lab.view(instance_id)
    assert view.instance_id == instance_id
    assert view.public_key == " ".join(PUBLIC_KEY.split()[:2]) + " key"
    assert view.user_data == b"#!/bin/sh\n"
    assert (view.token_required, view.hop_limit, view.tags_in_metadata) == (True, 2, True)
    assert view.tags == {"Name": "one"}
    assert list(view.security_groups.values()) == ["default"]
    assert view.availability_zone == lab.instance(instance_id)["Placement"]["AvailabilityZone"]
    assert (view.vpc_cidr, view.hostname) == ("172.31.0.0/16", lab.instance(instance_id)["PrivateDnsName"])
    assert view.profile is not None
    assert view.profile.role_name == "role"
    assert view.profile.profile_id == lab.instance(instance_id)["IamInstanceProfile"]["Id"]
    credentials = view.profile.credentials
    assert lab.view(instance_id).profile == view.profile  # the same until they end
    assert credentials.secret_access_key not in repr(view)
    sts = lab.client(
        "sts",
        aws_access_key_id=credentials.access_key_id,
        aws_secret_access_key=credentials.secret_access_key,
        aws_session_token=credentials.session_token,
    )
    assert sts.get_caller_identity()["Arn"].endswith(f":assumed-role/role/{instance_id}")


def test_a_created_key_pair_is_real(lab: Lab, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    made = lab.ec2.create_key_pair(KeyName="made")
    private = load_pem_private_key(made["KeyMaterial"].encode(), None)
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert lab.view(lab.running(KeyName="made")).public_key == f"{public} made"


def test_a_security_group_in_use_cannot_be_deleted(lab: Lab) -> None:
    one, two = (lab.security_group(name) for name in ("one", "two"))
    pairs = [{"GroupId": one}, {"GroupId": two}]
    permission = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "UserIdGroupPairs": pairs}
    lab.ec2.authorize_security_group_ingress(GroupId=two, IpPermissions=[permission])
    refused("DependencyViolation", lab.ec2.delete_security_group, GroupId=one)
    instance_id = lab.running(SecurityGroupIds=[two])
    refused("DependencyViolation", lab.ec2.delete_security_group, GroupId=two)
    lab.ec2.terminate_instances(InstanceIds=[instance_id])
    refused("DependencyViolation", lab.ec2.delete_security_group, GroupId=two)
    lab.api.terminated(instance_id, None)
    lab.ec2.delete_security_group(GroupId=two)
    lab.ec2.delete_security_group(GroupId=one)


def test_filters_see_states_and_tags(lab: Lab) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "join", "Value": "me"}]}]
    first, second = lab.running(TagSpecifications=tags), lab.run(TagSpecifications=tags)["InstanceId"]
    gone = lab.running()
    lab.ended(gone)

    def found(*filters: tuple[str, str]) -> set[str]:
        answer = lab.ec2.describe_instances(Filters=[{"Name": name, "Values": [value]} for name, value in filters])
        return {each["InstanceId"] for reservation in answer["Reservations"] for each in reservation["Instances"]}

    assert found(("tag:join", "me")) == {first, second}
    assert found(("tag:join", "me"), ("instance-state-name", "running")) == {first}
    assert found(("private-ip-address", lab.view(first).private_ip)) == {first}
    assert found(("vpc-id", lab.subnets[lab.three[0]]["VpcId"])) == {first, second}


def test_other_services_regions_and_callers_are_refused(lab: Lab) -> None:
    message = refused("NotImplemented", lambda: lab.client("sqs").list_queues())
    assert "sqs" in message
    message = refused("SignatureDoesNotMatch", lambda: lab.client("ec2", "eu-west-1").describe_instances())
    assert "'eu-west-1'" in message
    assert lab.client("s3").list_buckets()["Buckets"] == []
    status, body = plain(lab, "POST", "/", b"Action=DescribeInstances", {"Host": "ec2.us-east-1.amazonaws.com"})
    assert (status, b"MissingAuthenticationToken" in body) == (403, True)
    status, _ = plain(lab, "POST", "/moto-api/reset", b"", {})
    assert status == 403
    assert lab.ec2.describe_images()["Images"]
    lab.run()
    unknown = [{"Name": "hypervisor", "Values": ["xen"]}]  # moto lacks it: said, and not repeated
    refused("NotImplemented", lab.ec2.describe_instances, Filters=unknown)


def plain(lab: Lab, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", lab.api.ports[0], timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("service", "call"),
    [
        ("ec2", "describe_instances"),
        ("autoscaling", "describe_auto_scaling_groups"),
        ("iam", "list_roles"),
        ("sts", "get_caller_identity"),
    ],
)
def test_a_fault_inside_is_an_error_that_boto3_can_read(
    lab: Lab, service: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault <inside>")

    monkeypatch.setitem(lab.api._application._applications, service, fail)
    message = refused("InternalError", getattr(lab.client(service), call))
    assert message.startswith("RuntimeError: a fault <inside>")


def test_https_serves_the_amazonaws_names(lab: Lab) -> None:
    context = ssl.create_default_context(cadata=lab.ca.cert_pem)
    for name in ("ec2.us-east-1.amazonaws.com", "iam.amazonaws.com", "bucket.s3.us-east-1.amazonaws.com"):
        with (
            socket.create_connection(("127.0.0.1", lab.api.ports[1]), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname=name) as secure,
        ):
            secure.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            assert secure.recv(12).startswith(b"HTTP/1.1 ")


def test_a_silent_tls_client_delays_nobody(lab: Lab) -> None:
    with socket.create_connection(("127.0.0.1", lab.api.ports[1]), timeout=10):
        test_https_serves_the_amazonaws_names(lab)


def test_requests_and_events_at_once(lab: Lab) -> None:
    faults: list[Exception] = []

    def work() -> None:
        try:
            client = lab.client("ec2")
            for _ in range(3):
                instance_id = client.run_instances(ImageId=AMI, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
                lab.api.running(instance_id)
                client.terminate_instances(InstanceIds=[instance_id])
                lab.api.terminated(instance_id, None)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(lab.machines.specs) == 12


def test_one_cloud_a_process(lab: Lab) -> None:
    with pytest.raises(Ec2Error, match="close it"):
        CloudApi(
            region=REGION,
            public_block=ipaddress.IPv4Network("127.31.0.0/16"),
            machines=FakeMachines(),
            images=[],
            credentials=CREDENTIALS,
        )


@pytest.fixture
def unlisted_backend() -> None:
    """Leave a backend behind as moto's reset does: alive, and not listed."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.core.base_backend import BackendDict
    from moto.ec2.models import ec2_backends

    assert type(ec2_backends[DEFAULT_ACCOUNT_ID][REGION]).__name__ == "EC2Backend"
    BackendDict._instances.clear()


def test_what_moto_did_before_is_forgotten(unlisted_backend: None, lab: Lab) -> None:
    assert lab.state(lab.running()) == "running"


def test_a_taken_port_is_named(lab: Lab) -> None:
    with pytest.raises(Ec2Error, match=f"127.0.0.1 port {lab.api.ports[0]}"):
        lab.api.serve("127.0.0.1", lab.api.ports[0])


def test_the_users_aws_settings_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile broken\n")
    monkeypatch.setenv("AWS_PROFILE", "another")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("MOTO_ACCOUNT_ID", "999999999999")
    images = [ImageRecord(AMI, "debian-12", "Debian 12", "x86_64", "/dev/xvda")]
    block = ipaddress.IPv4Network("127.32.0.0/16")
    api = CloudApi(
        region="eu-west-1", public_block=block, machines=FakeMachines(), images=images, credentials=CREDENTIALS
    )
    try:
        assert os.environ["AWS_PROFILE"] == "another"
        for name in ("AWS_PROFILE", "AWS_CONFIG_FILE"):  # this test's own client would take them
            monkeypatch.delenv(name)
        api.serve("127.0.0.1", 0)
        ec2 = SESSION.client(
            "ec2",
            region_name="eu-west-1",
            endpoint_url=f"http://127.0.0.1:{api.ports[0]}",
            aws_access_key_id=CREDENTIALS.access_key_id,
            aws_secret_access_key=CREDENTIALS.secret_access_key,
        )
        instance = ec2.run_instances(ImageId=AMI, MinCount=1, MaxCount=1)["Instances"][0]
        assert instance["PublicIpAddress"] == instance["PrivateIpAddress"].replace("172.31.", "127.32.", 1)
        assert instance["PrivateDnsName"].endswith(".eu-west-1.compute.internal")
        api.running(instance["InstanceId"])
        view = api.instance(instance["PrivateIpAddress"])
        assert view is not None
        assert (view.account_id, view.region) == ("123456789012", "eu-west-1")
        ec2.close()
    finally:
        api.close()


def test_changed_metadata_options_leave_the_others(lab: Lab) -> None:
    instance_id = lab.running(MetadataOptions={"HttpTokens": "required", "InstanceMetadataTags": "enabled"})
    lab.ec2.modify_instance_metadata_options(InstanceId=instance_id, HttpPutResponseHopLimit=3)
    view = lab.view(instance_id)
    assert (view.token_required, view.tags_in_metadata, view.hop_limit) == (True, True, 3)
    lab.ec2.modify_instance_metadata_options(InstanceId=instance_id, HttpEndpoint="disabled")
    assert not lab.view(instance_id).metadata_enabled


def test_what_aws_needs_and_boto3_does_not_demand_is_refused_by_its_name(lab: Lab) -> None:
    instance = lab.running()
    group = lab.ec2.create_security_group(GroupName="web", Description="x")["GroupId"]
    for name, call in {
        "LaunchTemplateId or LaunchTemplateName": lambda: lab.ec2.create_launch_template_version(
            LaunchTemplateData={"InstanceType": "t3.micro"}
        ),
        "IamInstanceProfile": lambda: lab.ec2.associate_iam_instance_profile(
            IamInstanceProfile={}, InstanceId=instance
        ),
        "SecurityGroupRule": lambda: lab.ec2.modify_security_group_rules(
            GroupId=group, SecurityGroupRules=[{"SecurityGroupRuleId": "sgr-1"}]
        ),
    }.items():
        assert refused("MissingParameter", call) == f"The request must contain the parameter {name}"
    message = refused(
        "ValidationError",
        lambda: lab.autoscaling.set_instance_health(InstanceId=instance, HealthStatus="unhealthy"),
    )
    assert message.endswith("[Healthy, Unhealthy]; found 'unhealthy'")
