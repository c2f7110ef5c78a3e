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
    }
  }
}

resource "azapi_resource" "late_v3_environment" {
  type      = "Microsoft.MachineLearningServices/workspaces/environments@2024-10-01"
  name      = "late-v3"
  parent_id = var.workspace_id
  body      = { properties = {} }
}

resource "azapi_resource" "late_v3_image" {
  type      = "Microsoft.MachineLearningServices/workspaces/environments/versions@2024-10-01"
  name      = "3a3a3a3a3a3a"
  parent_id = azapi_resource.late_v3_environment.id
  body = {
    properties = {
      image  = "registry.example.com/ml/late:3-3a3a3a3a3a3a-0d0d0d0d"
      osType = "Linux"
      inferenceConfig = {
        livenessRoute  = { path = "/", port = 5001 }
        readinessRoute = { path = "/", port = 5001 }
        scoringRoute   = { path = "/score", port = 5001 }
      }
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
      environmentId = azapi_resource.late_v3_image.id
    }
  }
}

resource "azapi_resource" "late_v4_environment" {
  type      = "Microsoft.MachineLearningServices/workspaces/environments@2024-10-01"
  name      = "late-v4"
  parent_id = var.workspace_id
  body      = { properties = {} }
}

resource "azapi_resource" "late_v4_image" {
  type      = "Microsoft.MachineLearningServices/workspaces/environments/versions@2024-10-01"
  name      = "4b4b4b4b4b4b"
  parent_id = azapi_resource.late_v4_environment.id
  body = {
    properties = {
      image  = "registry.example.com/ml/late:4-4b4b4b4b4b4b-0d0d0d0d"
      osType = "Linux"
      inferenceConfig = {
        livenessRoute  = { path = "/", port = 5001 }
        readinessRoute = { path = "/", port = 5001 }
        scoringRoute   = { path = "/score", port = 5001 }
      }
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
      environmentId = azapi_resource.late_v4_image.id
    }
  }
}

# Shares name deployments, so they come last.
resource "azapi_update_resource" "traffic" {
  type        = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints@2024-10-01"
  resource_id = azapi_resource.endpoint.id
  body = {
    properties = {
      traffic = { "late-v3" = 90, "late-v4" = 10 }
    }
  }
  depends_on = [azapi_resource.late_v3, azapi_resource.late_v4]
}
