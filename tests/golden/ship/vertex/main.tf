terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7.0"
    }
  }
}

variable "region" {
  type    = string
  default = "europe-west4"
}

resource "google_vertex_ai_endpoint" "this" {
  name         = "late"
  display_name = "late"
  location     = var.region
}

# The provider has no resource for uploaded models: `deploy.sh` uploads and deploys each version.
output "endpoint" {
  value = google_vertex_ai_endpoint.this.id
}
