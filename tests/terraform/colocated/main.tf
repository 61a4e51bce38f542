# A colocated cluster on an EC2 at AWS_ENDPOINT_URL, without a provider: where no registry can be reached, its place is
# taken by cluster.py, which makes calls as the AWS provider would, and gives nothing a tag of nomad_testkit.

terraform {
  required_version = ">= 1.4"
}

locals {
  command = "${var.python} ${path.module}/cluster.py"
  cluster = {
    ami_id                      = var.ami_id
    cluster_name                = var.cluster_name
    num_servers                 = var.num_servers
    num_clients                 = var.num_clients
    cluster_tag_key             = var.cluster_tag_key
    cluster_tag_value           = var.cluster_tag_value
    ssh_key_name                = var.ssh_key_name
    allowed_inbound_cidr_blocks = var.allowed_inbound_cidr_blocks
  }
}

# Made first, so that it is destroyed last, and also when one of the groups could not be made: a resource whose creation
# failed has its provisioners not run when it is destroyed.
resource "terraform_data" "cluster" {
  input = "${local.command} destroy"

  provisioner "local-exec" {
    when    = destroy
    command = self.input
  }
}

resource "terraform_data" "servers" {
  depends_on = [terraform_data.cluster]

  provisioner "local-exec" {
    command     = "${local.command} create servers"
    environment = { CLUSTER = jsonencode(local.cluster) }
  }
}

resource "terraform_data" "clients" {
  depends_on = [terraform_data.servers]

  provisioner "local-exec" {
    command     = "${var.client_command} && ${local.command} create clients"
    environment = { CLUSTER = jsonencode(local.cluster), LICENSE = nonsensitive(var.license) }
  }
}
