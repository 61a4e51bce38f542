"""Destroy a run's resources by tag and by journal, and prove that nothing is left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nomad_testkit.deployment.inventory import Inventory, Resource
from nomad_testkit.errors import TeardownError, TestkitError, WaitTimeout
from nomad_testkit.modules.steps import (
    AUTO_SCALING_GROUP,
    IMAGE,
    INSTANCE,
    INSTANCE_PROFILE,
    KEY_PAIR,
    LAUNCH_TEMPLATE,
    ROLE,
    RUN_TAG,
    SECURITY_GROUP,
    SNAPSHOT,
    VOLUME,
)
from nomad_testkit.targets.aws.errors import (
    AWS_ERRORS,
    RETRY_SECONDS,
    code_of,
    describe_error,
    is_not_found,
    retry_transient,
)
from nomad_testkit.wait import Deadline, Ok, Pending, wait_until

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_iam import IAMClient

    from nomad_testkit.events import Progress
    from nomad_testkit.runs.journal import Entry, Journal

logger = logging.getLogger(__name__)

INTERVAL = 0.15
"""Seconds between the first two polls of a resource that is being deleted."""
LONGEST = 3.0
"""Seconds between later polls: AWS takes minutes, and throttles frequent calls."""


def sweep(
    client: Callable[[str], Any],
    run_id: str,
    journal: Journal | None,
    *,
    deadline: Deadline,
    progress: Progress | None = None,
) -> list[str]:
    """Destroy everything that bears the run's tag, and return what it was.

    The journal names resources that the tag index does not show yet. A resource without the tag is never destroyed,
    except an AMI that is in the journal and has the run's id in its name, and an AMI's own snapshots.

    A call that AWS throttles or does not answer is retried for up to RETRY_SECONDS. Every step runs even if another
    fails, unless the deadline has passed and the API does not answer. Raise TeardownError, with what is left and which
    calls AWS refused, if something is left.
    """
    return _Sweep(client, run_id, journal, deadline, progress or (lambda line: None)).run()


def _unless_gone(call: Callable[[], object]) -> None:
    """Make one of the calls that a deletion needs; ignore the error that its object does not exist.

    AWS answers so when botocore has retried a deletion whose response was lost.
    """
    try:
        call()
    except AWS_ERRORS as error:
        if not is_not_found(error):
            raise


class _Sweep:
    def __init__(
        self,
        client: Callable[[str], Any],
        run_id: str,
        journal: Journal | None,
        deadline: Deadline,
        progress: Progress,
    ) -> None:
        self.ec2: EC2Client = client("ec2")
        self.autoscaling: AutoScalingClient = client("autoscaling")
        self.iam: IAMClient = client("iam")
        self.run_id, self.journal, self.deadline, self.progress = run_id, journal, deadline, progress
        self.destroyed: list[str] = []
        self.faults: list[str] = []
        self.terminating: dict[str, Resource] = {}
        self.refused: set[str] = set()
        self.unanswered = False
        """Whether the last call got no response."""
        built_image = any(entry.kind == IMAGE for entry in self.remembered())
        self.inventory = Inventory(self.ec2, self.autoscaling, self.iam, run_id, untagged_images=built_image)

    def run(self) -> list[str]:
        groups = self.found(AUTO_SCALING_GROUP)
        for group in groups:
            # Otherwise the group would replace each terminated instance.
            self.attempt(f"suspending {group}", partial(self.suspend, group))
            self.destroy(group, self.delete_group)
        self.terminate(self.found(INSTANCE))
        # An instance that is shutting down needs none of these.
        for kind, delete in (
            (LAUNCH_TEMPLATE, self.delete_template),
            (KEY_PAIR, self.delete_key_pair),
            (INSTANCE_PROFILE, self.delete_profile),
            (ROLE, self.delete_role),
            (IMAGE, self.deregister_image),
            (SNAPSHOT, self.delete_snapshot),
        ):
            for resource in self.found(kind):
                self.destroy(resource, delete)
        self.attempt("waiting for the instances to terminate", self.await_instances)
        for volume in self.found(VOLUME):
            self.destroy(volume, self.delete_volume)
        security_groups = self.found(SECURITY_GROUP)
        for resource in security_groups:
            self.attempt(f"the rules of {resource}", partial(self.unlink, resource, security_groups))
        for resource in security_groups:
            self.destroy(resource, self.delete_security_group)
        self.prove()
        return self.destroyed

    def found(self, kind: str) -> list[Resource]:
        """Find the remaining resources of one kind, by tag and by journal."""
        resources = self.look(f"each {kind}", partial(self.inventory.tagged, kind))
        known = {resource.id for resource in resources} | {resource.name for resource in resources}
        for entry in self.remembered():
            if entry.kind == kind and known.isdisjoint({entry.id, entry.name}):
                find = partial(self.inventory.named, kind, entry.name)
                resources += self.look(f"the {kind} {entry.name}", find)
        return resources

    def remembered(self) -> Sequence[Entry]:
        """List the journal's entries that may still exist."""
        if self.journal is None:
            return ()
        try:
            return self.journal.left()
        except TestkitError as error:
            self.fault(f"the journal: {error}")
            return ()

    def look(self, what: str, find: Callable[[], Iterable[Resource]]) -> list[Resource]:
        resources: list[Resource] = []
        self.attempt(f"looking for {what}", lambda: resources.extend(find()))
        return resources

    def attempt(self, what: str, action: Callable[[], object]) -> bool:
        """Do one thing, retrying transient errors; on any other error, note it and go on."""
        if self.unanswered and self.deadline.passed:
            self.fault(f"{what}: not tried, because the deadline has passed and the API does not answer")
            return False
        try:
            retry_transient(what, action, deadline=self.deadline.child(RETRY_SECONDS))
        except AWS_ERRORS as error:
            self.unanswered = code_of(error) == ""
            self.fault(f"{what}: {describe_error(error)}")
        except WaitTimeout as error:
            self.fault(f"{what}: {error}")
        else:
            self.unanswered = False
            return True
        return False

    def fault(self, line: str) -> None:
        self.faults.append(line)
        logger.warning("sweep of %s: %s", self.run_id, line)

    def destroy(self, resource: Resource, delete: Callable[[Resource], object]) -> None:
        """Delete one resource and note that it is gone; a missing resource counts as deleted."""

        def action() -> None:
            try:
                delete(resource)
            except AWS_ERRORS as error:
                if not is_not_found(error):
                    raise

        self.progress(f"destroying {resource}")
        if self.attempt(f"destroying {resource}", action):
            self.gone(resource)

    def gone(self, resource: Resource) -> None:
        self.destroyed.append(str(resource))
        if self.journal is not None:
            try:
                self.journal.destroyed(resource.kind, resource.id)
            except TestkitError as error:  # a full disk must not keep the rest alive
                self.fault(str(error))

    def suspend(self, group: Resource) -> None:
        self.autoscaling.suspend_processes(AutoScalingGroupName=group.id)

    def delete_group(self, group: Resource) -> None:
        self.autoscaling.delete_auto_scaling_group(AutoScalingGroupName=group.id, ForceDelete=True)

    def terminate(self, instances: Sequence[Resource]) -> None:
        """Terminate instances without an operating system shutdown; if AWS refuses one, terminate the others."""
        if not instances:
            return
        self.progress(f"terminating {len(instances)} instance(s)")
        ids = [one.id for one in instances]
        try:
            retry_transient(
                "ending instances",
                lambda: self.ec2.terminate_instances(InstanceIds=ids, SkipOsShutdown=True),
                deadline=self.deadline.child(RETRY_SECONDS),
            )
        except AWS_ERRORS as error:
            if len(instances) > 1:  # AWS refuses the whole call because of one instance
                for one in instances:
                    self.terminate([one])
                return
            if not is_not_found(error):
                self.fault(f"terminating {instances[0]}: {describe_error(error)}")
                self.refused.add(instances[0].id)
                return
        self.terminating.update({one.id: one for one in instances})

    def await_instances(self) -> None:
        """Wait until no instance is left; terminate any that a growing group has just launched, too."""
        left: dict[str, Resource] = {}

        def probe() -> Ok[None] | Pending:
            seen = {one.id: one for one in self.inventory.tagged(INSTANCE) if one.id not in self.refused}
            left.clear()
            left.update(seen)
            self.terminate([one for one in seen.values() if one.id not in self.terminating])
            if not seen:
                return Ok(None)
            return Pending(", ".join(f"{one} {one.state}" for one in seen.values()))

        try:
            wait_until("the instances to terminate", probe, deadline=self.deadline, interval=INTERVAL, longest=LONGEST)
        finally:
            self.destroyed += [str(one) for one in self.terminating.values() if one.id not in left]

    def delete_template(self, template: Resource) -> None:
        self.ec2.delete_launch_template(LaunchTemplateId=template.id)

    def delete_key_pair(self, key_pair: Resource) -> None:
        self.ec2.delete_key_pair(KeyName=key_pair.name)

    def delete_profile(self, profile: Resource) -> None:
        answer = self.iam.get_instance_profile(InstanceProfileName=profile.name)
        for role in answer["InstanceProfile"]["Roles"]:
            remove = partial(self.iam.remove_role_from_instance_profile, RoleName=role["RoleName"])
            _unless_gone(partial(remove, InstanceProfileName=profile.name))
        self.iam.delete_instance_profile(InstanceProfileName=profile.name)

    def delete_role(self, role: Resource) -> None:
        for names in self.iam.get_paginator("list_role_policies").paginate(RoleName=role.name):
            for name in names["PolicyNames"]:
                _unless_gone(partial(self.iam.delete_role_policy, RoleName=role.name, PolicyName=name))
        for policies in self.iam.get_paginator("list_attached_role_policies").paginate(RoleName=role.name):
            for policy in policies["AttachedPolicies"]:
                detach = partial(self.iam.detach_role_policy, RoleName=role.name)
                _unless_gone(partial(detach, PolicyArn=policy["PolicyArn"]))
        self.iam.delete_role(RoleName=role.name)

    def delete_volume(self, volume: Resource) -> None:
        self.ec2.delete_volume(VolumeId=volume.id)

    def deregister_image(self, image: Resource) -> None:
        """Deregister an AMI and delete its snapshots, even those without the tag."""
        # For an image deleted a moment ago AWS returns an empty list, or no list at all.
        described = self.ec2.describe_images(ImageIds=[image.id]).get("Images") or [{}]
        _unless_gone(partial(self.ec2.deregister_image, ImageId=image.id))
        for device in described[0].get("BlockDeviceMappings", ()):
            if (name := device.get("Ebs", {}).get("SnapshotId")) and self.made_for(image, name):
                self.destroy(Resource(SNAPSHOT, name, name), self.delete_snapshot)

    def made_for(self, image: Resource, name: str) -> bool:
        """Return whether a snapshot bears the tag or names the AMI in its description, as AWS writes it."""
        try:
            (facts,) = self.ec2.describe_snapshots(SnapshotIds=[name]).get("Snapshots") or [{}]
        except AWS_ERRORS as error:
            if not is_not_found(error):
                raise
            return False
        tagged = any(tag == {"Key": RUN_TAG, "Value": self.run_id} for tag in facts.get("Tags", ()))
        return tagged or image.id in facts.get("Description", "")

    def delete_snapshot(self, snapshot: Resource) -> None:
        self.ec2.delete_snapshot(SnapshotId=snapshot.id)

    def unlink(self, group: Resource, groups: Sequence[Resource]) -> None:
        """Revoke the rules that admit another group of the run: AWS does not delete a group that a rule names."""
        others = {one.id for one in groups} - {group.id}
        if not others:
            return
        facts = self.ec2.describe_security_groups(GroupIds=[group.id])["SecurityGroups"][0]
        for permission in facts["IpPermissions"]:
            pairs = [pair for pair in permission.get("UserIdGroupPairs", ()) if pair.get("GroupId") in others]
            if pairs:
                rule: Any = {key: permission[key] for key in ("IpProtocol", "FromPort", "ToPort") if key in permission}
                rule["UserIdGroupPairs"] = [{"GroupId": pair["GroupId"]} for pair in pairs]
                self.ec2.revoke_security_group_ingress(GroupId=group.id, IpPermissions=[rule])

    def delete_security_group(self, group: Resource) -> None:
        def probe() -> Ok[None] | Pending:
            try:
                self.ec2.delete_security_group(GroupId=group.id)
            except AWS_ERRORS as error:
                # The network interface of a terminated instance is deleted a little later.
                if code_of(error) == "DependencyViolation":
                    return Pending(describe_error(error))
                raise
            return Ok(None)

        wait_until(f"{group} to be deleted", probe, deadline=self.deadline, interval=INTERVAL, longest=LONGEST)

    def prove(self) -> None:
        """Raise TeardownError if any resource still bears the tag."""
        left: list[str] = []
        self.inventory.look_anew()

        def probe() -> Ok[None] | Pending:
            left[:] = [str(resource) for resource in self.inventory.everything()]
            return Pending(", ".join(left)) if left else Ok(None)

        # Waiting does not help against refused calls.
        deadline = self.deadline.child(0) if self.faults else self.deadline
        proved = self.attempt(
            "proving that nothing is left",
            lambda: wait_until("nothing to be left", probe, deadline=deadline, interval=INTERVAL, longest=LONGEST),
        )
        if not proved:
            listed = "\n".join(f"  - {line}" for line in left or ["unknown: it could not be listed"])
            refused = "\n".join(f"  - {line}" for line in self.faults)
            raise TeardownError(
                f"run {self.run_id} is not destroyed; left:\n{listed}\nrefused:\n{refused}\n"
                f"Sweep it again, or delete what bears the tag nomad-testkit-run = {self.run_id} by hand."
            )
