terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

variable "role_arn" {
  description = "The role that SageMaker takes to run the containers."
  type        = string
}

variable "instance_type" {
  type    = string
  default = "ml.m7i.large"
}

resource "aws_sagemaker_model" "late_v3" {
  name               = "late-v3-3a3a3a3a3a3a"
  execution_role_arn = var.role_arn

  primary_container {
    image = "registry.example.com/ml/late:3-3a3a3a3a3a3a-0d0d0d0d"
    environment = {
      BASCULE_SERVING__WORKERS  = "1"
      BASCULE_SECURITY__CALLERS = "anybody"
    }
  }
}

resource "aws_sagemaker_model" "late_v4" {
  name               = "late-v4-4b4b4b4b4b4b"
  execution_role_arn = var.role_arn

  primary_container {
    image = "registry.example.com/ml/late:4-4b4b4b4b4b4b-0d0d0d0d"
    environment = {
      BASCULE_SERVING__WORKERS  = "1"
      BASCULE_SECURITY__CALLERS = "anybody"
    }
  }
}

resource "aws_sagemaker_endpoint_configuration" "this" {
  name_prefix = "late-"

  production_variants {
    variant_name           = "current"
    model_name             = aws_sagemaker_model.late_v3.name
    instance_type          = var.instance_type
    initial_instance_count = 2
    initial_variant_weight = 90
  }

  production_variants {
    variant_name           = "candidate"
    model_name             = aws_sagemaker_model.late_v4.name
    instance_type          = var.instance_type
    initial_instance_count = 2
    initial_variant_weight = 10
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_sagemaker_endpoint" "this" {
  name                 = "late"
  endpoint_config_name = aws_sagemaker_endpoint_configuration.this.name
}
