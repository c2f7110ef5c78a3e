from .generation import TextGeneration as TextGeneration
from .python import PythonModel as PythonModel
from .sklearn import save as save
from .table import TABLE as TABLE, flavor_of as flavor_of, reopener as reopener
from .torch import module_from as module_from
