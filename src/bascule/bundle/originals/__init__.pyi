from . import (
    aten as aten,
    keras_archive as keras_archive,
    pipelines as pipelines,
    retrieval as retrieval,
)
from .archives import BOOSTED as BOOSTED, check_archive as check_archive
from .aten import (
    ARITHMETIC as ARITHMETIC,
    GRAPH as GRAPH,
    GRAPH_VERSION as GRAPH_VERSION,
    Call as Call,
    CallList as CallList,
    Result as Result,
    checked_call as checked_call,
    tensor_of as tensor_of,
)
from .boosted import (
    BoostedOriginal as BoostedOriginal,
    ask_catboost as ask_catboost,
    ask_of as ask_of,
    built as built,
    catboost_kind as catboost_kind,
    lightgbm_objective as lightgbm_objective,
    load_catboost as load_catboost,
    of_both_classes as of_both_classes,
)
from .frames import Frame as Frame
from .keras import (
    BACKENDS as BACKENDS,
    keras_answers as keras_answers,
    keras_inputs as keras_inputs,
    keras_program as keras_program,
    outputs_by_name as outputs_by_name,
    outputs_in_order as outputs_in_order,
    structured_inputs as structured_inputs,
)
from .libraries import (
    distribution_of as distribution_of,
    installed as installed,
    installed_version as installed_version,
    is_of as is_of,
    version_of as version_of,
)
from .networks import (
    AskNetwork as AskNetwork,
    NetworkProgram as NetworkProgram,
    named_outputs as named_outputs,
)
from .overrides import own_methods as own_methods
from .pickled import (
    MODEL as MODEL,
    PICKLE_FILE as PICKLE_FILE,
    PICKLE_FORMAT as PICKLE_FORMAT,
    open_archive as open_archive,
    open_pickled as open_pickled,
)
from .python import (
    CODE_FILE as CODE_FILE,
    CODE_FORMAT as CODE_FORMAT,
    LOCK_FILE as LOCK_FILE,
    open_class as open_class,
)
from .python_environment import draft as draft, pip as pip, python_version as python_version
from .saved import (
    inputs_of as inputs_of,
    is_as_saved as is_as_saved,
    is_inspected as is_inspected,
    is_isolated as is_isolated,
    is_read_by_its_library as is_read_by_its_library,
    open_inspected as open_inspected,
    open_saved as open_saved,
)
from .sklearn import (
    SklearnOriginal as SklearnOriginal,
    before_last_step as before_last_step,
    is_trusted as is_trusted,
    kind_name as kind_name,
    load_trusted as load_trusted,
    skops_io as skops_io,
)
from .structures import check_estimator as check_estimator
