from . import host as host
from .child import ChildProgram as ChildProgram, of_bundle as of_bundle
from .host import (
    HIDE_TEXTS as HIDE_TEXTS,
    Refused as Refused,
    die_with as die_with,
    place_of as place_of,
)
from .kinds import (
    COMPOSITION as COMPOSITION,
    MACHINE_CODE as MACHINE_CODE,
    ONNX as ONNX,
    is_runnable as is_runnable,
    obstacles as obstacles,
    open_kind as open_kind,
    runnable as runnable,
)
from .llvm import machine_code as machine_code, making as making
from .onnx import (
    check_providers as check_providers,
    field_of as field_of,
    is_known_type as is_known_type,
    open_onnx as open_onnx,
    open_session as open_session,
    open_tokenized as open_tokenized,
    without_missing_text as without_missing_text,
)
from .tokenized import (
    METADATA as METADATA,
    TOKENS as TOKENS,
    TokenizedProgram as TokenizedProgram,
)
from .trees import FEATURES as FEATURES, SUMS as SUMS, TreesProgram as TreesProgram
from .unknowns import count_unknowns as count_unknowns
