from . import compression as compression
from .compression import inflated as inflated
from .event_stream import EVENT_STREAM_TYPE as EVENT_STREAM_TYPE, event_message as event_message
from .json_tables import Table as Table, TableReader as TableReader
from .json_values import (
    MAX_VALUES as MAX_VALUES,
    JsonParser as JsonParser,
    ValuesReader as ValuesReader,
    bounds_of as bounds_of,
    count_mismatch as count_mismatch,
    refuse_twice as refuse_twice,
    values_reader as values_reader,
    whole_bounds_of as whole_bounds_of,
)
from .npy import NPY_TYPE as NPY_TYPE, read_npy as read_npy, write_npy as write_npy
from .protobuf import (
    BYTES as BYTES,
    FIXED32 as FIXED32,
    FIXED64 as FIXED64,
    VARINT as VARINT,
    block as block,
    double_field as double_field,
    fields as fields,
    malformed as malformed,
    number_field as number_field,
    packed_varints as packed_varints,
    read_text as read_text,
    read_varints as read_varints,
    varint as varint,
)
from .raw_tensors import (
    RawReader as RawReader,
    Taker as Taker,
    raw_of as raw_of,
    raw_reader as raw_reader,
    taker as taker,
)
