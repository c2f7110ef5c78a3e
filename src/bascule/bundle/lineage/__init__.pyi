from . import provenance as provenance
from .mlflow import (
    asking as asking,
    open_mlflow as open_mlflow,
    quiet as quiet,
    usual_uri as usual_uri,
)
from .provenance import user_name as user_name
from .sources import TABLE as TABLE, lines as lines, trace as trace
