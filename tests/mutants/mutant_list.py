"""The faults: each is one that somebody could make by accident, in code whose failure would pass for success."""

from __future__ import annotations

from collections.abc import Iterator

from mutant import Mutant, test_file

Change = tuple[str, str, str] | tuple[str, str, str, str]
"""The function, what it says, what it is to say, and where it may survive, why."""


def _in(file: str, tests: str, *changes: Change) -> Iterator[Mutant]:
    for function, old, new, *reason in changes:
        yield Mutant(file, function, old, new, tuple(map(test_file, tests.split())), "".join(reason))


MUTANTS: tuple[Mutant, ...] = (
    # Judges
    *_in(
        "checks/health.py",
        "checks_health",
        ("_unhealthy", "not server.healthy or not server.voter", "not server.healthy and not server.voter"),
        ("_unhealthy", "if not value.healthy", "if False"),
        ("HealthyServers._judge_logs", "if leader is None:", "if False:"),
        ("NoFailedMembers._judge_one", 'status != "left"', "True"),
        ("NoFailedMembers._judge_one", "if name not in expected]", "if False]"),
    ),
    *_in(
        "checks/raft.py",
        "checks_raft",
        ("_judge_peers", "len(view.servers) != count", "len(view.servers) < count"),
        ("_judge_peers", "set(answer.value) != expected", "set(answer.value) > expected"),
        ("all_of", "if broken:", "if broken and False:"),
        ("split", "and not _leads_itself(view)", ""),
        ("split", "and len(_leading(view)) < 2", ""),
        ("_leads_itself", "named.get(place) != own", "named.get(place)"),
        ("_bootstrap_expect", 'if running["Bootstrap"]', "if False"),
    ),
    *_in(
        "checks/registration.py",
        "checks_registration checks_services",
        ("ServiceInstance.parse", 'if check["Status"] != "passing"', 'if check["Status"] == "critical"'),
        ("ServiceInstance.parse", 'service["Address"] or node["Address"]', 'node["Address"]'),
        ("NomadNode.ready", 'self.eligibility == "eligible"', "True"),
        ("NodesReady.judge", "len(versions) > 1", "len(versions) > 2"),
        ("NodesReady.judge", "faults or len(ready) != self.count", "len(ready) != self.count"),
    ),
    *_in(
        "checks/services.py",
        "checks_services",
        ("ServiceResolves._fault", "set(view.addresses) - known", "set()"),
        ("ServiceGone._fault", 'view.dns_code != "NXDOMAIN"', 'view.dns_code == "NOERROR"'),
    ),
    *_in(
        "checks/units.py",
        "checks_units",
        ("UnitsActive.judge", "if state.failed:", "if False:"),
        ("_unsteady", "state.restarts > before", "state.restarts < before"),
        ("_unsteady", "state.active_seconds < STEADY_SECONDS", "False"),
        ("_observe", "_restarts[host] = before | {state.unit: state.restarts for state in states}", "pass"),
    ),
    *_in(
        "checks/placement.py",
        "checks_scheduling",
        ("why_not_placed", 'if evaluation.status == "failed"', "if False"),
    ),
    # The frame of the checks, and their arguments
    *_in(
        "cluster/check.py",
        "checks_frame checks_require",
        ("Check.verdict", "tuple(cluster.missing_hosts)", "()"),
        (
            "Check.verdict",
            "if not missing or isinstance(verdict, Broken):",
            "if not missing or isinstance(verdict, Ok):",
        ),
        ("ask_every", "if not hosts:", "if False:"),
        ("ask_every", "if silent:", "if len(silent) == len(hosts):"),
        ("require", "if again and not failing:", "if False:"),
    ),
    *_in(
        "cluster/arguments.py",
        "checks_frame",
        ("check_arguments", "and not value and field.default != value", "and False"),
        ("_wrong_simple", "(isinstance(value, bool) and hint is not bool)", "False"),
    ),
    *_in(
        "checks/advertised.py",
        "checks_advertised",
        ("_wrong_addresses", "address != place.private_ip", 'address == "127.0.0.1"'),
        ("_differing", "len(values) > 1", "len(values) > 2"),
        ("AdvertisedAddresses.judge", "if not answer.value:", "if False:"),
    ),
    *_in(
        "cluster/clients/session.py",
        "clients_agents",
        ("AgentClient._read", '"true") != "true"', '"true") == "0"'),
    ),
    # Refused before anything is made
    *_in(
        "deployment/tag_in_use.py",
        "tag_in_use",
        ("", '"stopping", "stopped")', ")"),
        ("refuse_tags_in_use", "if run != run_id:", "if run:"),
    ),
    *_in(
        "plugin/overrides.py",
        "overrides::test_an_example_that_a_conftest_would_ignore_is_refused",
        ("defeated", "startswith(_FOR_THIS_RUN)", 'startswith("option")'),
        ("_of_example", "example.folder.resolve() != asked.resolve()", "False"),
    ),
    *_in(
        "plugin/overrides.py",
        "overrides::test_a_cluster_of_another_size_is_told_whichever_is_greater",
        ("_of_cluster", "len(hosts) != size", "len(hosts) < size"),
    ),
    *_in(
        "faults/book.py",
        "faults_left",
        ("Book.undone", "if not self._keys:", "if False:"),
        ("Book._open", "self._lock.try_acquire()", "pass"),
    ),
    # What is made
    *_in(
        "modules/security_group_rules.py",
        "modules_clusters",
        ("inbound_rules", '"FromPort": port.number', '"FromPort": 0'),
        ("fitted", 'last["ToPort"] + 1', 'last["ToPort"] + 2'),
        ("consul_client_ports", ', Port("udp", serf_lan, "Consul Serf LAN")', ","),
    ),
    *_in(
        "modules/auto_scaling_group.py",
        "modules_clusters",
        ("_Maker.__init__", "for tag in module.tags}, **own}", "for tag in module.tags}}"),
        ("_Maker.launch_template_data", "module.metadata_http_tokens", '"optional"'),
        ("_Maker.security_group", "(*module.allowed_inbound_security_group_ids, group)", "(group,)"),
    ),
    *_in(
        "deployment/plan.py",
        "deploy_plan",
        ("key_pair_step", "RUN_TAG: run_id, ", ""),
        ("plan", "*inbound_cidrs", ""),
    ),
    *_in(
        "deployment/apply.py",
        "deploy_faults::test_every_throttled_call_is_made_again",
        ("_call", "if not_yet or is_throttled(error):", "if not_yet:"),
    ),
    *_in(
        "deployment/apply.py",
        "deploy_sweep::test_a_refused_template_is_waited_for_only_where_that_helps",
        ("_call", "and part in said", ""),
    ),
    *_in(
        "deployment/apply.py",
        "deploy_sweep::test_a_refused_step_is_named_and_journaled",
        ("", "journal.record(step.creates.kind, step.creates.name, step=step.name)", "pass"),
    ),
    *_in(
        "deployment/preflight.py",
        "deploy_survey",
        ("_Survey.check_root_volume", "group.module.root_volume_size < least", "group.module.root_volume_size > least"),
        ("_Survey.security_groups", "!= network.vpc_id", "is None"),
    ),
    # What is destroyed
    *_in(
        "deployment/sweep.py",
        "deploy_sweep::test_a_security_group_in_use_is_tried_again",
        ("_Sweep.delete_security_group", 'code_of(error) == "DependencyViolation"', "False"),
    ),
    *_in(
        "deployment/sweep.py",
        "deploy_sweep::test_suspends_a_group_before_its_instances_end",
        ("_Sweep.run", 'self.attempt(f"suspending {group}", partial(self.suspend, group))', "pass"),
    ),
    *_in(
        "deployment/sweep.py",
        "deploy_sweep::test_one_protected_instance_does_not_save_the_others",
        ("_Sweep.terminate", "if len(instances) > 1:", "if False:"),
    ),
    *_in(
        "deployment/sweep.py",
        "deploy_sweep::test_applies_and_sweeps_everything",
        ("_Sweep.gone", "self.journal.destroyed(resource.kind, resource.id)", "pass"),
    ),
    *_in(
        "deployment/sweep.py",
        "deploy_sweep::test_sweeps_groups_that_name_each_other",
        ("_Sweep.run", "partial(self.unlink, resource, security_groups)", "lambda: None"),
    ),
    *_in(
        "deployment/sweep.py",
        "deploy_sweep::test_goes_on_after_a_refusal_and_reports_it",
        ("_Sweep.prove", "if not proved:", "if False:"),
    ),
    *_in(
        "deployment/lost_runs.py",
        "deploy_leaks::test_finds_by_tag_in_every_region_and_destroys_that_alone "
        "deploy_leaks::test_a_run_is_as_old_as_the_first_of_what_is_left "
        "deploy_leaks::test_a_security_group_alone_is_as_old_as_the_day_in_the_runs_id "
        "deploy_leaks::test_a_run_in_use_is_spared "
        "deploy_leaks::test_a_run_lives_until_the_last_time_that_its_tags_tell "
        "deploy_leaks::test_a_tag_that_names_no_run_is_left_alone",
        ("find_lost", "resource.run_id not in spared and", ""),
        ("find_lost", "_RUN_ID.fullmatch", "_RUN_ID.match"),
        ("find_lost", "expires = max(", "expires = min("),
        ("_end_of_day", "+ timedelta(days=1)", ""),
    ),
    *_in(
        "runs/journal.py",
        "journal",
        (
            "Journal._write",
            "os.fsync(descriptor)",
            "pass",
            "only a machine that loses power shows it: the kernel keeps what a dead process has written",
        ),
        ("Journal._write", 'line = b"\\n" + line', "pass"),
        ("Journal.entries", 'event["id"] in (entry.id, entry.name)', 'event["id"] == entry.id'),
        ("Journal.left", "if not entry.destroyed", "if entry.id and not entry.destroyed"),
    ),
    *_in(
        "deployment/lifecycle.py",
        "lifecycle::test_it_is_lent_and_then_destroyed "
        "lifecycle::test_what_fails_is_destroyed_though_it_was_to_be_left_up "
        "lifecycle::test_the_runs_of_killed_processes_are_forgotten "
        "lifecycle::test_when_the_time_is_up_the_user_is_interrupted_and_all_is_destroyed",
        ("new_run", "None if expired.is_set() else settings.keep", "settings.keep"),
        ("_finish", "first is None and", ""),
        ("forget_dead", 'description.get("kept") or', ""),
        ("destroy", "run.forget()", "pass"),
    ),
    # Secrets
    *_in(
        "cluster/secrets.py",
        "run_secrets",
        ("Secret.__repr__", "repr(HIDDEN)", "str.__repr__(self)"),
        ("RunSecrets._known", "*shortened", ""),
        ("RunSecrets.for_host", "{CONSUL_MANAGEMENT} if consul_server else set()", "{CONSUL_MANAGEMENT}"),
        ("_write", "0o600", "0o644"),
    ),
    # The embedded EC2
    *_in(
        "ec2/imds/server.py",
        "ec2_metadata",
        ("TokenMint.remaining", "owner != instance_id or", ""),
        ("_MetadataHandler.do_PUT", '"X-Forwarded-For" in self.headers', "False"),
        ("_MetadataHandler.do_GET", "elif view.token_required:", "elif False:"),
    ),
    *_in(
        "ec2/imds/tree.py",
        "ec2_metadata",
        ("_metadata", "if view.tags_in_metadata:", "if True:"),
    ),
    *_in(
        "ec2/vpc/security_groups.py",
        "ec2_security_groups",
        ("_protocol", "(0, _LAST_PORT)", "(1, _LAST_PORT)"),
        ("_base", "policy drop;", "policy accept;"),
    ),
    *_in(
        "ec2/api/security_groups.py",
        "ec2_security_groups",
        ("_check", "not 0 <= first <=", "not 1 <= first <="),
    ),
    *_in(
        "ec2/machines/layers.py",
        "ec2_images",
        ("ImageStore.add", "_cut(root, bundle, certificate)", "pass"),
    ),
    *_in(
        "ec2/machines/image_root.py",
        "ec2_image_root",
        (
            "ImageRoot._made",
            "return open_in_root(root, str(path), flags)\n        above",
            "return os.open(path, flags, dir_fd=root)\n        above",
        ),
        ("ImageRoot.write", "kind not in (None, stat.S_IFREG)", "False"),
        ("ImageRoot.read", "open_in_root(root, name,", "os.open(self._folder / name,"),
    ),
    *_in(
        "ec2/machines/isolation.py",
        "ec2_isolation",
        ("_outside", "base <= number < base + IDS", "base < number"),
        ("IdPool.take", "number * IDS", "number"),
        ("_acl", "(_ACL_USER, _ACL_GROUP)", "(_ACL_USER,)"),
    ),
    *_in(
        "ec2/machines/devices.py",
        "ec2_devices",
        ("_program", "value=_TYPE_CHARACTER", "value=1"),
        ("_program", "offset=2 + len(one) // 8", "offset=2"),
    ),
    # Scripts on the hosts
    *_in(
        "modules/host_scripts/host_aws_api.py",
        "host_aws_api",
        ("expected_servers", "tags.get(tag[0]) != tag[1]", "tag[0] not in tags"),
        ("AwsApi._failure", "or code in THROTTLED", ""),
        ("AwsApi._pages", "if not token:", "if True:"),
    ),
    *_in(
        "modules/host_scripts/host_metadata.py",
        "host_metadata",
        ("Metadata._get", "answer.status == 401", "False"),
    ),
    *_in(
        "modules/host_scripts/host_commons.py",
        "host_commons",
        ("wait_until", "interval = min(longest, interval * 1.5)", "pass"),
    ),
    *_in(
        "modules/host_scripts/wait_for_consul.py",
        "host_wait_for_consul",
        ("nomad_leader", "answer.text != '\"\"'", "True"),
    ),
    *_in(
        "modules/host_scripts/run_consul.py",
        "run_consul",
        ("render_config", '"bootstrap_expect"] = bootstrap_expect', '"bootstrap_expect"] = 1'),
        ("_acl", '"deny"', '"allow"'),
    ),
    # Waiting, sharing, jobs, writes, history
    *_in(
        "wait.py",
        "wait",
        ("Deadline.child", "min(self.at, self.clock() + seconds)", "self.clock() + seconds"),
        ("wait_until", "if isinstance(answer, Broken):", "if isinstance(answer, Broken) and final:"),
    ),
    *_in(
        "targets/aws/errors.py",
        "deploy_faults::test_an_api_that_never_answers_does_not_keep_a_sweep_for_ever",
        ("retry_transient", "deadline.passed or not passes", "not passes"),
    ),
    *_in(
        "plugin/xdist_cluster.py",
        "sharing",
        ("_inherit", "run is None or settings.keep", "run is None"),
        ("Sharing._find", "if place.result() != result:", "if False:"),
        ("Sharing._await_the_last", 'last.acquire("the other workers to end")', "pass"),
    ),
    *_in(
        "cluster/jobs.py",
        "jobs",
        ("Job._deregister", "error.status is None or error.status >= 500", "error.status is None"),
        ("Job._ended", "not in _ENDED", 'not in (*_ENDED, "pending")'),
    ),
    *_in(
        "faults/workload.py",
        "workload",
        ("Register._look", "number < self.acknowledged", "number > self.acknowledged"),
        ("Register.verify", "if not self.writes:", "if False:"),
        ("Workload.await_writes", "writes + 2", "writes + 1"),
    ),
    *_in(
        "faults/repairs.py",
        "faults_undone",
        ("Repairs.run", "self._left.pop()", "self._left.pop(0)"),
        ("Repairs.run", "self._left = failed", "self._left = []"),
        ("Repairs.plan", "book.undone(key)", "pass"),
    ),
    *_in(
        "faults/fault.py",
        "faults_undone",
        ("Fault.__enter__", "_note(error, self.repairs.run())", "pass"),
    ),
    *_in(
        "faults/linearizability/check.py",
        "linearizability::test_a_sequence_without_a_fault_proves_nothing "
        "linearizability::test_what_is_undecided_is_no_success",
        ("_nothing", "if faults_due and not done", "if False"),
        ("check_kv", 'found.verdict != "ok"', 'found.verdict == "illegal"'),
    ),
    *_in(
        "report/history/trend.py",
        "trend",
        ("_is_step", "SIGMAS * noise", "0"),
        ("_is_step", "SUPERIORITY * len(before)", "0 * len(before)"),
    ),
)
