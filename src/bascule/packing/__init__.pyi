from .federated import federated_app as federated_app, federated_bundle as federated_bundle
from .flavors.composition import Composition as Composition
from .flavors.derived import DerivedGraph as DerivedGraph
from .flavors.generation import TextGeneration as TextGeneration
from .flavors.python import PythonModel as PythonModel
from .flavors.retrieval import VectorIndex as VectorIndex
from .model_files import (
    CodeOptions as CodeOptions,
    describes_generation as describes_generation,
    read_model as read_model,
)
from .packing import pack as pack
from .rebuilding import Rebuilt as Rebuilt, rebuild as rebuild
from .watermarks import (
    Receipt as Receipt,
    embed_watermark as embed_watermark,
    verify_watermark as verify_watermark,
)
