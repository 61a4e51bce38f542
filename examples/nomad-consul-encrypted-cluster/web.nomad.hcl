# A web page from every client. By hand: nomad job run web.nomad.hcl
# In a test: nomad_cluster.submitted("web.nomad.hcl", count=6). Without datacenters it runs in those of all clients.

variable "count" {
  type        = number
  default     = 6
  description = "How many allocations, spread over the clients."
}

job "web" {
  type = "service"

  group "page" {
    count = var.count

    spread {
      attribute = "${node.unique.id}"
    }

    network {
      port "http" {}
    }

    service {
      # The name that Consul knows; a test gives every job one of its own.
      name = "${JOB}"
      port = "http"

      check {
        type     = "http"
        path     = "/"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "serve" {
      driver = "raw_exec"

      config {
        command = "/usr/bin/python3"
        args    = ["-m", "http.server", "--directory", "${NOMAD_TASK_DIR}", "--bind", "${NOMAD_IP_http}", "${NOMAD_PORT_http}"]
      }

      template {
        data        = "<h1>{{ env \"NOMAD_ALLOC_NAME\" }}</h1>"
        destination = "local/index.html"
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
