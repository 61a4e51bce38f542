# The names are those of upstream's examples.

output "num_nomad_servers" {
  value = var.num_servers
}

output "asg_name_servers" {
  value = "${var.cluster_name}-server-tf"
}

output "num_clients" {
  value = var.num_clients
}

output "asg_name_clients" {
  value = "${var.cluster_name}-client-tf"
}

output "aws_region" {
  value = var.aws_region
}

output "nomad_servers_cluster_tag_key" {
  value = var.cluster_tag_key
}

output "nomad_servers_cluster_tag_value" {
  value = "${var.cluster_tag_value}-tf"
}

output "license" {
  value     = var.license
  sensitive = true
}
