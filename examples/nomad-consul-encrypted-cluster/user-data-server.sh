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

# The certificates, keys and tokens come over SSH from whoever deploys this example: user data is no place for secrets,
# since every process on the host may ask the instance metadata service for it.
secrets=/etc/nomad-testkit
until [[ -d $secrets ]]; do
  if ((SECONDS >= 300)); then
    echo "error: nobody has brought $secrets within $SECONDS s; nomad_testkit does when it deploys this example" >&2
    exit 1
  fi
  sleep 0.2
done

# Each agent reads only its own key.
for agent in consul nomad; do
  install -d "/opt/$agent/tls/ca"
  install -m 0644 "$secrets/ca.pem" "/opt/$agent/tls/ca/ca.pem"
  install -m 0644 "$secrets/$agent.pem" "/opt/$agent/tls/agent.pem"
  install -m 0600 -o "$agent" "$secrets/$agent-key.pem" "/opt/$agent/tls/agent-key.pem"
done

# With the management token, servers make the other tokens in Consul, each with a policy of its own.
# No agent asks its maker for a newer version, nor logs that it cannot where there is no internet.
/opt/consul/bin/run-consul --server \
  --cluster-tag-key "${cluster_tag_key}" \
  --cluster-tag-value "${cluster_tag_value}" \
  --enable-gossip-encryption \
  --gossip-encryption-key-file "$secrets/consul-gossip.key" \
  --enable-rpc-encryption \
  --ca-path /opt/consul/tls/ca \
  --cert-file-path /opt/consul/tls/agent.pem \
  --key-file-path /opt/consul/tls/agent-key.pem \
  --verify-server-hostname \
  --enable-https \
  --enable-acl \
  --acl-initial-management-token-file "$secrets/consul-management.token" \
  --acl-nomad-token-file "$secrets/consul-nomad.token" \
  --acl-agent-token-file "$secrets/consul-agent.token" \
  --acl-default-token-file "$secrets/consul-default.token" \
  --environment CHECKPOINT_DISABLE=1

/opt/nomad/bin/run-nomad --server --num-servers "${num_servers}" \
  --enable-gossip-encryption \
  --gossip-encryption-key-file "$secrets/nomad-gossip.key" \
  --enable-rpc-encryption \
  --ca-file-path /opt/nomad/tls/ca/ca.pem \
  --cert-file-path /opt/nomad/tls/agent.pem \
  --key-file-path /opt/nomad/tls/agent-key.pem \
  --verify-server-hostname \
  --enable-https \
  --enable-acl \
  --acl-bootstrap-token-file "$secrets/nomad-management.token" \
  --consul-https \
  --consul-ca-file-path /opt/nomad/tls/ca/ca.pem \
  --consul-token-file "$secrets/consul-nomad.token" \
  --environment CHECKPOINT_DISABLE=1
