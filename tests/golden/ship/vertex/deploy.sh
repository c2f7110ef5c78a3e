#!/bin/sh
# Upload each version to Vertex AI's registry, and deploy it with its share: deploy.sh REGION ENDPOINT
set -eu
region=$1 endpoint=$2
gcloud ai models upload --region "$region" --model-id late-v3 --display-name late-v3 \
  --container-image-uri registry.example.com/ml/late:3-3a3a3a3a3a3a --container-ports 8080 \
  --container-health-route /vertex/health --container-predict-route /vertex/predict \
  --container-env-vars BASCULE_SECURITY__CALLERS=anybody
gcloud ai endpoints deploy-model "$endpoint" --region "$region" --model late-v3 \
  --display-name current --min-replica-count 2 \
  --max-replica-count 10 --traffic-split 0=90 || true
gcloud ai models upload --region "$region" --model-id late-v4 --display-name late-v4 \
  --container-image-uri registry.example.com/ml/late:4-4b4b4b4b4b4b --container-ports 8080 \
  --container-health-route /vertex/health --container-predict-route /vertex/predict \
  --container-env-vars BASCULE_SECURITY__CALLERS=anybody
gcloud ai endpoints deploy-model "$endpoint" --region "$region" --model late-v4 \
  --display-name candidate --min-replica-count 2 \
  --max-replica-count 10 --traffic-split 0=10
