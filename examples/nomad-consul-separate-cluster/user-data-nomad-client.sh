#!/bin/bash
# Runs once, as root, when a Nomad client boots: it starts a Consul client and then Nomad.
# ${cluster_tag_key} and ${cluster_tag_value} are filled in from example.toml; they are the Consul servers' tag.

set -euo pipefail

# All that is printed goes to a log of its own, and on to cloud-init, which shows it on the console.
exec > >(tee -a /var/log/user-data.log) 2>&1
log=$!

finish() {
  status=$?
  echo "user data ended with status $status"
  exec >&- 2>&- # tee ends when it has written the last line
  wait "$log"
  exit "$status"
}
trap finish EXIT

# No agent asks its maker for a newer version, nor logs that it cannot where there is no internet.
/opt/consul/bin/run-consul --client \
  --cluster-tag-key "${cluster_tag_key}" \
  --cluster-tag-value "${cluster_tag_value}" \
  --environment CHECKPOINT_DISABLE=1

# raw_exec lets a job run as root without isolation: fit for tests, seldom for production.
/opt/nomad/bin/run-nomad --client --enable-raw-exec --environment CHECKPOINT_DISABLE=1
