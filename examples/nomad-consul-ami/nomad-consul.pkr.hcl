# An AMI with Nomad and Consul, for AWS and for the embedded EC2. README.md tells how to build it with which Packer.

variable "aws_region" {
  type        = string
  default     = "us-east-1"
  description = "The region to build in."
}

variable "consul_version" {
  type        = string
  default     = "1.14.0"
  description = "The release of Consul to install, unless consul_zip names a file."
}

variable "nomad_version" {
  type        = string
  default     = "1.6.1"
  description = "The release of Nomad to install, unless nomad_zip names a file."
}

variable "ami_name_prefix" {
  type        = string
  default     = "nomad-consul"
  description = "What the AMI's name begins with; the distribution and the time follow."
}

variable "instance_type" {
  type        = string
  default     = "t3.micro"
  description = "The type of the instance that the image is made on, of that architecture."
}

variable "architecture" {
  type        = string
  default     = "amd64"
  description = "The image's architecture, amd64 or arm64."
}

variable "allowed_ssh_cidr_blocks" {
  type        = list(string)
  default     = ["0.0.0.0/0"]
  description = "The blocks that Packer connects from, let in for the time of the build."
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "More tags for the AMI, its snapshot, and the instance that it is made on."
}

variable "host_scripts" {
  type        = string
  default     = ""
  description = "The folder with install_consul.py and its like; empty for that of this checkout."
}

variable "consul_zip" {
  type        = string
  default     = ""
  description = "A zip file in the folder host_scripts with a Consul to install instead of a release."
}

variable "nomad_zip" {
  type        = string
  default     = ""
  description = "A zip file in the folder host_scripts with a Nomad to install instead of a release."
}

variable "ec2_endpoint" {
  type        = string
  default     = ""
  description = "The URL of another EC2 than AWS's, such as the embedded one."
}

locals {
  host_scripts = var.host_scripts != "" ? var.host_scripts : "${path.root}/../../nomad_testkit/modules/host_scripts"
  uploaded     = "/tmp/nomad-testkit"
  consul       = var.consul_zip != "" ? "--download-url file://${local.uploaded}/${var.consul_zip}" : "--version ${var.consul_version}"
  nomad        = var.nomad_zip != "" ? "--download-url file://${local.uploaded}/${var.nomad_zip}" : "--version ${var.nomad_version}"
  machine      = var.architecture == "arm64" ? "arm64" : "x86_64" # as Amazon names it
  time         = formatdate("YYYYMMDD-hhmmss", timestamp())
}

# What all images have in common; the sources of the build below add the rest.
source "amazon-ebs" "nomad-consul" {
  region                                = var.aws_region
  instance_type                         = var.instance_type
  associate_public_ip_address           = true
  temporary_security_group_source_cidrs = var.allowed_ssh_cidr_blocks
  ssh_timeout                           = "5m"

  ami_description = "Consul and Nomad, by nomad_testkit"
  tags            = merge({ Name = var.ami_name_prefix }, var.tags)
  snapshot_tags   = merge({ Name = var.ami_name_prefix }, var.tags)
  run_tags        = merge({ Name = "${var.ami_name_prefix} being built" }, var.tags)
  run_volume_tags = merge({ Name = "${var.ami_name_prefix} being built" }, var.tags)

  # An embedded EC2 is no region that AWS knows, nor has the machine that runs it AWS's metadata.
  custom_endpoint_ec2     = var.ec2_endpoint
  skip_region_validation  = var.ec2_endpoint != ""
  skip_metadata_api_check = var.ec2_endpoint != ""
}

build {
  source "amazon-ebs.nomad-consul" {
    name         = "debian-12"
    ami_name     = "${var.ami_name_prefix}-debian-12-${local.time}"
    ssh_username = "admin"
    source_ami_filter {
      owners      = ["136693071363"] # Debian
      most_recent = true
      filters     = { name = "debian-12-${var.architecture}-*", virtualization-type = "hvm", root-device-type = "ebs" }
    }
  }

  source "amazon-ebs.nomad-consul" {
    name         = "ubuntu-22.04"
    ami_name     = "${var.ami_name_prefix}-ubuntu-22.04-${local.time}"
    ssh_username = "ubuntu"
    source_ami_filter {
      owners      = ["099720109477"] # Canonical
      most_recent = true
      filters = {
        name                = "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-${var.architecture}-server-*"
        virtualization-type = "hvm"
        root-device-type    = "ebs"
      }
    }
  }

  source "amazon-ebs.nomad-consul" {
    name         = "ubuntu-24.04"
    ami_name     = "${var.ami_name_prefix}-ubuntu-24.04-${local.time}"
    ssh_username = "ubuntu"
    source_ami_filter {
      owners      = ["099720109477"] # Canonical
      most_recent = true
      filters = {
        name                = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-${var.architecture}-server-*"
        virtualization-type = "hvm"
        root-device-type    = "ebs"
      }
    }
  }

  source "amazon-ebs.nomad-consul" {
    name         = "amazon-linux-2023"
    ami_name     = "${var.ami_name_prefix}-amazon-linux-2023-${local.time}"
    ssh_username = "ec2-user"
    source_ami_filter {
      owners      = ["137112412989"] # Amazon
      most_recent = true
      filters     = { name = "al2023-ami-2023.*-${local.machine}", virtualization-type = "hvm", root-device-type = "ebs" }
    }
  }

  # A fresh instance is reachable before cloud-init is through.
  provisioner "shell" {
    inline = [
      "cloud-init status --wait > /dev/null || true",
      "mkdir -m 0700 ${local.uploaded}",
    ]
  }

  provisioner "file" {
    source      = "${local.host_scripts}/"
    destination = local.uploaded
  }

  provisioner "shell" {
    inline = [
      "sudo python3 ${local.uploaded}/install_consul.py ${local.consul}",
      "sudo python3 ${local.uploaded}/install_nomad.py ${local.nomad}",
    ]
  }

  # The last: it removes every identity and trace of this instance, the way in included.
  provisioner "shell" {
    inline = ["sudo python3 ${local.uploaded}/seal_image.py"]
  }
}
