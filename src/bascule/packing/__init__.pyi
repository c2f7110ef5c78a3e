from .flavors.derived import DerivedGraph as DerivedGraph
from .flavors.python import PythonModel as PythonModel
from .model_files import CodeOptions as CodeOptions, read_model as read_model
from .packing import pack as pack
from .rebuilding import Rebuilt as Rebuilt, rebuild as rebuild
from .watermarks import (
    Receipt as Receipt,
    embed_watermark as embed_watermark,
    new_watermark_key as new_watermark_key,
    read_watermark_key as read_watermark_key,
    verify_watermark as verify_watermark,
)
