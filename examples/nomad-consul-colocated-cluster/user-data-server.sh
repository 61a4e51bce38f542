#!/bin/bash
# Runs once, as root, when a server boots: it starts Consul and then Nomad.
# ${cluster_tag_key}, ${cluster_tag_value} and ${num_servers} are filled in from example.toml.

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
/opt/consul/bin/run-consul --server \
  --cluster-tag-key "${cluster_tag_key}" \
  --cluster-tag-value "${cluster_tag_value}" \
  --environment CHECKPOINT_DISABLE=1

/opt/nomad/bin/run-nomad --server --num-servers "${num_servers}" --environment CHECKPOINT_DISABLE=1
