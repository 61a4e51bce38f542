"""moto's Auto Scaling over the cloud's EC2: spread over zones, suspended processes and lifecycle hooks."""

# moto has no annotations that mypy could follow.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import logging
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import moto.autoscaling.models as autoscaling_models
from moto.autoscaling.exceptions import AutoscalingClientError, ValidationError
from moto.autoscaling.models import ASG_NAME_TAG, AutoScalingBackend, FakeAutoScalingGroup, TerminateInstanceActivity
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import EC2ClientError

from nomad_testkit.ec2.api.az_balancing import ZoneSubnet, spread, surplus
from nomad_testkit.ec2.api.launch_request import LaunchRequest
from nomad_testkit.ec2.api.lifecycle_hooks import LAUNCHING, TERMINATING, CloudLifecycleHook, LifecycleActions

log = logging.getLogger(__name__)


class CloudAutoScalingGroup(FakeAutoScalingGroup):
    """A group that keeps its instances spread over its zones, and honours suspended processes and lifecycle hooks."""

    instance_states: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        backend = kwargs["ec2_backend"]
        self.actions = LifecycleActions(backend.hardware.lock, self._proceed)
        super().__init__(*args, **kwargs)

    def active_instances(self) -> list[Any]:
        active = ("Pending", "Pending:Wait", "InService")
        return [state for state in self.instance_states if state.lifecycle_state in active]

    def hooks(self, transition: str) -> list[CloudLifecycleHook]:
        """List the group's hooks for a transition."""
        hooks = self.autoscaling_backend.describe_lifecycle_hooks(self.name)
        return [hook for hook in hooks if hook.lifecycle_transition == transition]

    def booted(self, state: Any) -> None:
        """Take a member on when its instance has started: into service, or first to the hooks for its launch."""
        if state.lifecycle_state != "Pending":
            return
        if hooks := self.hooks(LAUNCHING):
            state.lifecycle_state = "Pending:Wait"
            self.actions.begin(state.instance.id, hooks)
        else:
            state.lifecycle_state = "InService"

    def end(self, states: list[Any]) -> None:
        """End members: at once, or when the hooks for their termination are done."""
        hooks = self.hooks(TERMINATING)
        if hooks:
            for state in states:
                state.lifecycle_state = "Terminating:Wait"
                self.actions.begin(state.instance.id, hooks)
        elif states:
            self.ec2_backend.terminate_instances([state.instance.id for state in states])
            self.instance_states = [state for state in self.instance_states if state not in states]

    def look(self) -> None:
        """Look after the members' health: one whose instance does not run is unhealthy, and is replaced.

        As the Amazon EC2 Auto Scaling User Guide has it ("Health checks for instances in an Auto Scaling group"), only
        at once. The processes HealthCheck and ReplaceUnhealthy can be suspended.
        """
        if self.autoscaling_backend.autoscaling_groups.get(self.name) is not self:
            return  # it has been deleted, and its members are on their way down
        serving = [state for state in self.instance_states if state.lifecycle_state in ("Pending", "InService")]
        if "HealthCheck" not in self._suspended_processes:
            for state in serving:
                if state.instance.state not in ("pending", "running"):
                    state.health_status = "Unhealthy"
        unhealthy = [state for state in serving if state.health_status == "Unhealthy" and self._replaces(state)]
        if not unhealthy or "ReplaceUnhealthy" in self._suspended_processes:
            return
        try:
            self.end(unhealthy)
            self.set_desired_capacity(self.desired_capacity)
        except (EC2ClientError, AutoscalingClientError) as error:
            # On AWS a replacement that cannot be launched is a failed scaling activity.
            log.warning("no replacement in %s: %s", self.name, error)

    @staticmethod
    def _replaces(state: Any) -> bool:
        # AWS replaces a host that cannot even boot too, by another that cannot, and so on until somebody looks.
        return bool(state.instance.has_served or state.instance.state == "running")

    def _proceed(self, instance_id: str, result: str) -> None:
        """Go on with a member whose hooks are done, or one of which has ended with ABANDON."""
        state = next((state for state in self.instance_states if state.instance.id == instance_id), None)
        if state is None:
            return
        if state.lifecycle_state == "Terminating:Wait":  # both results end it; ABANDON only spares it the other hooks
            self.ec2_backend.terminate_instances([instance_id])
            self.instance_states.remove(state)
        elif result == "CONTINUE":
            state.lifecycle_state = "InService"
        else:
            self.ec2_backend.terminate_instances([instance_id])
            self.autoscaling_backend.notify_terminate_instances([instance_id])

    def set_desired_capacity(self, new_capacity: int | None) -> None:
        wanted = self.min_size if new_capacity is None else new_capacity
        active = self.active_instances()
        extra = len(active) - (wanted or 0)
        if extra <= 0:
            super().set_desired_capacity(wanted)
            return
        self.desired_capacity = wanted
        if "Terminate" in self._suspended_processes:
            return
        chosen = surplus(
            extra,
            [state.availability_zone for state in active],
            [bool(state.protected_from_scale_in) for state in active],
            newest="NewestInstance" in self.termination_policies[:1],
        )
        self.end([active[number] for number in chosen])

    def replace_autoscaling_group_instances(self, count_needed: int, propagated_tags: dict[str, str]) -> None:
        if "Launch" in self._suspended_processes:
            return
        arguments = self._launch_arguments()
        tags = {"instance": {**propagated_tags, ASG_NAME_TAG: self.name}}
        for subnet, count in self._spread(count_needed).items():
            reservation = self.ec2_backend.run_instances(
                self.image_id,
                count,
                None if self.ec2_launch_template else self.user_data,
                self.security_groups,
                tags=tags,
                subnet_id=subnet,
                **arguments,
            )
            for instance in reservation.instances:
                instance.autoscaling_group = self
                state = autoscaling_models.InstanceState(
                    instance,
                    lifecycle_state="InService" if instance.state == "running" else "Pending",
                    protected_from_scale_in=self.new_instances_protected_from_scale_in,
                )
                self.instance_states.append(state)

    def _launch_arguments(self) -> dict[str, Any]:
        common = {"instance_type": self.instance_type, "is_instance_type_default": False, "region_name": self.region}
        if self.ec2_launch_template:
            version = self.ec2_launch_template.get_version(self.launch_template_version)
            template = {"LaunchTemplateId": self.ec2_launch_template.id, "Version": str(version.number)}
            return {**common, "launch_template": template, "associate_public_ip": None}
        config = self.launch_config
        return {
            **common,
            "launch_config": config,
            "key_name": config.key_name,
            "associate_public_ip": config.associate_public_ip_address,
            "metadata_options": config.metadata_options or {},
            "profile": LaunchRequest.profile_named(config.iam_instance_profile),
        }

    def _spread(self, count: int) -> dict[str, int]:
        if self.vpc_zone_identifier:
            subnets = [self.ec2_backend.get_subnet(name.strip()) for name in self.vpc_zone_identifier.split(",")]
        else:
            defaults = self.ec2_backend.get_default_subnets()
            subnets = [defaults[zone] for zone in self.availability_zones]
        members = [ZoneSubnet(state.instance.subnet_id, state.availability_zone) for state in self.active_instances()]
        return spread(count, [ZoneSubnet(subnet.id, subnet.availability_zone) for subnet in subnets], members)


class _Groups(OrderedDict[str, CloudAutoScalingGroup]):
    """Groups by name; moto looks up names that may not exist."""

    def __missing__(self, name: str) -> CloudAutoScalingGroup:
        raise ValidationError(f"AutoScalingGroup name not found - AutoScalingGroup '{name}' not found")


class CloudAutoScalingResponse(AutoScalingResponse):
    """The requests that moto does not know, or with parameters that it does not read."""

    def create_auto_scaling_group(self) -> ActionResult:
        backend, name = self.autoscaling_backend, self._get_param("AutoScalingGroupName")
        hooks = [
            CloudLifecycleHook.of(name, given)
            for given in self._get_param("LifecycleHookSpecificationList", None) or []
        ]
        answer = super().create_auto_scaling_group()
        # No instance has started yet: that takes the lock which this request holds.
        backend.lifecycle_hooks.update({f"{name}_{hook.name}": hook for hook in hooks})
        if role := self._get_param("ServiceLinkedRoleARN"):
            backend.autoscaling_groups[name].service_linked_role_arn = role
        return answer

    def set_instance_health(self) -> ActionResult:
        if (status := self._get_param("HealthStatus")) not in ("Healthy", "Unhealthy"):
            raise ValidationError(f"Valid instance health states are: [Healthy, Unhealthy]; found {status!r}")
        return super().set_instance_health()

    def put_lifecycle_hook(self) -> ActionResult:
        group = self.autoscaling_backend.autoscaling_groups[self._get_param("AutoScalingGroupName")]
        hook = CloudLifecycleHook.of(group.name, self._get_params())
        self.autoscaling_backend.lifecycle_hooks[f"{group.name}_{hook.name}"] = hook
        return EmptyResult()

    def complete_lifecycle_action(self) -> ActionResult:
        """Answer CompleteLifecycleAction."""
        actions, hook, member = self._action()
        if not actions.complete(member, hook, str(self._get_param("LifecycleActionResult"))):
            raise ValidationError(f"No active Lifecycle Action found with instance ID {member}")
        return EmptyResult()

    def record_lifecycle_action_heartbeat(self) -> ActionResult:
        """Answer RecordLifecycleActionHeartbeat."""
        actions, hook, member = self._action()
        if not actions.heartbeat(member, hook):
            raise ValidationError(f"No active Lifecycle Action found with instance ID {member}")
        return EmptyResult()

    def _action(self) -> tuple[LifecycleActions, str, str]:
        group = self.autoscaling_backend.autoscaling_groups[self._get_param("AutoScalingGroupName")]
        hook, token = str(self._get_param("LifecycleHookName")), self._get_param("LifecycleActionToken")
        member = self._get_param("InstanceId") or group.actions.of_token(str(token))
        return group.actions, hook, str(member)

    def delete_auto_scaling_group(self) -> ActionResult:
        self.autoscaling_backend.delete_auto_scaling_group(
            self._get_param("AutoScalingGroupName"), force=self._get_bool_param("ForceDelete", False)
        )
        return EmptyResult()


class CloudAutoScalingBackend(AutoScalingBackend):
    """moto's Auto Scaling with AWS's answers where a test would notice."""

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.autoscaling_groups = _Groups()

    @property
    def _url_module(self) -> Any:
        from moto.autoscaling import urls

        return SimpleNamespace(url_bases=urls.url_bases, url_paths={"{0}/": CloudAutoScalingResponse.dispatch})

    def create_auto_scaling_group(self, name: str, *args: Any, **kwargs: Any) -> CloudAutoScalingGroup:
        if name in self.autoscaling_groups:
            raise AutoscalingClientError(
                "AlreadyExists", f"AutoScalingGroup by this name already exists - A group with the name {name} exists"
            )
        try:
            return super().create_auto_scaling_group(name, *args, **kwargs)  # type: ignore[no-any-return]
        except EC2ClientError as error:
            raise ValidationError(
                f"You must use a valid fully-formed launch template. {error.message} ({error.code})"
            ) from error

    def delete_auto_scaling_group(self, group_name: str, *, force: bool = False) -> None:
        group = self.autoscaling_groups[group_name]
        members = [state.instance.id for state in group.instance_states]
        if members and not force:
            raise AutoscalingClientError(
                "ResourceInUse",
                "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance "
                "request(s) still in the group.",
            )
        group.actions.close()
        for hook in self.describe_lifecycle_hooks(group_name):
            self.delete_lifecycle_hook(group_name, hook.name)
        del self.autoscaling_groups[group_name]
        if members:
            self.ec2_backend.cut_power = True
            self.ec2_backend.terminate_instances(members)

    def terminate_instance(self, instance_id: str, should_decrement: bool) -> TerminateInstanceActivity:
        members = [(group, state) for group in self.autoscaling_groups.values() for state in group.instance_states]
        found = next(((group, state) for group, state in members if state.instance.id == instance_id), None)
        if found is None:
            raise ValidationError(f"Instance Id not found - No managed instance found for instance ID: {instance_id}")
        group, state = found
        if not group.hooks(TERMINATING):
            return super().terminate_instance(instance_id, should_decrement)
        activity = TerminateInstanceActivity(state.instance, group.desired_capacity or 0)
        group.end([state])
        group.set_desired_capacity((group.desired_capacity or 0) - bool(should_decrement))
        return activity

    def resume_processes(self, group_name: str, scaling_processes: list[str]) -> None:
        super().resume_processes(group_name, scaling_processes)
        group = self.autoscaling_groups[group_name]
        group.look()
        group.set_desired_capacity(group.desired_capacity)

    def set_instance_health(self, instance_id: str, health_status: str) -> None:
        for group in list(self.autoscaling_groups.values()):
            for state in group.instance_states:
                if state.instance.id == instance_id:
                    state.health_status = health_status
                    group.look()
                    return
        raise ValidationError(f"Instance Id not found - No managed instance found for instance ID: {instance_id}")

    def notify_terminate_instances(self, instance_ids: list[str]) -> None:
        try:
            super().notify_terminate_instances(instance_ids)
        except (EC2ClientError, AutoscalingClientError) as error:
            # On AWS a replacement that cannot be launched is a failed scaling activity; the request itself succeeds.
            log.warning("no replacement for %s: %s", ", ".join(instance_ids), error)
