terraform {
  required_version = ">= 1.5"
  required_providers {
    azapi = {
      source  = "Azure/azapi"
      version = ">= 2.0"
    }
  }
}

variable "workspace_id" {
  description = "The resource id of the workspace."
  type        = string
}

variable "location" {
  type = string
}

resource "azapi_resource" "endpoint" {
  type      = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints@2024-10-01"
  name      = "late"
  parent_id = var.workspace_id
  location  = var.location
  identity {
    type = "SystemAssigned"
  }
  body = {
    properties = {
      authMode = "Key"
      traffic  = { "late-v3" = 90, "late-v4" = 10 }
    }
  }
}

resource "azapi_resource" "late_v3" {
  type      = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments@2024-10-01"
  name      = "late-v3"
  parent_id = azapi_resource.endpoint.id
  location  = var.location
  body = {
    sku = { name = "Default", capacity = 2 }
    properties = {
      endpointComputeType = "Managed"
      instanceType        = "Standard_F4s_v2"
      environmentVariables = {
        BASCULE_SERVING__PORT     = "5001"
        BASCULE_SECURITY__CALLERS = "anybody"
      }
      environmentId = "registry.example.com/ml/late:3-3a3a3a3a3a3a"
    }
  }
}

resource "azapi_resource" "late_v4" {
  type      = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments@2024-10-01"
  name      = "late-v4"
  parent_id = azapi_resource.endpoint.id
  location  = var.location
  body = {
    sku = { name = "Default", capacity = 2 }
    properties = {
      endpointComputeType = "Managed"
      instanceType        = "Standard_F4s_v2"
      environmentVariables = {
        BASCULE_SERVING__PORT     = "5001"
        BASCULE_SECURITY__CALLERS = "anybody"
      }
      environmentId = "registry.example.com/ml/late:4-4b4b4b4b4b4b"
    }
  }
}

