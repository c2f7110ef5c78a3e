from .frames import Frame as Frame
from .libraries import installed_version as installed_version
from .originals import (
    inputs_of as inputs_of,
    is_as_saved as is_as_saved,
    is_inspected as is_inspected,
    is_isolated as is_isolated,
    is_read_by_its_library as is_read_by_its_library,
    open_inspected as open_inspected,
    open_saved as open_saved,
    reopener as reopener,
)
from .pickled import open_archive as open_archive, open_pickled as open_pickled
from .python import PythonModel as PythonModel
from .sklearn import load_trusted as load_trusted
from .table import TABLE as TABLE, flavor_of as flavor_of
