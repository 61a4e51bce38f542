variable "ami_id" {
  type        = string
  description = "The image of every host."
}

variable "cluster_name" {
  type    = string
  default = "nomad-example"
}

variable "num_servers" {
  type    = number
  default = 3
}

variable "num_clients" {
  type    = number
  default = 6
}

variable "cluster_tag_key" {
  type    = string
  default = "nomad-servers"
}

variable "cluster_tag_value" {
  type    = string
  default = "auto-join"
}

variable "ssh_key_name" {
  type    = string
  default = ""
}

variable "allowed_inbound_cidr_blocks" {
  type = list(string)
}

variable "aws_region" {
  type = string
}

variable "license" {
  type        = string
  sensitive   = true
  default     = "nobody-is-to-see-this"
  description = "Not used by the cluster: what must never be told."
}

variable "python" {
  type        = string
  default     = "python3"
  description = "A Python that has nomad_testkit installed."
}

variable "client_command" {
  type        = string
  default     = ":"
  description = "Run before the clients are made: how tests make a configuration fail, or take its time, half way."
}
