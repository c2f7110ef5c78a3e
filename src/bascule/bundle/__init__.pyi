from .answer import Answer as Answer, Places as Places, flat as flat, places_of as places_of
from .card import (
    Plot as Plot,
    Said as Said,
    Section as Section,
    card_json as card_json,
    overview as overview,
    render as render,
    sections as sections,
)
from .card_html import page as page, render_html as render_html
from .card_plots import plots as plots
from .disk.folder import read_manifest as read_manifest
from .disk.manifest import Manifest as Manifest, Statement as Statement
from .flavors.python import PythonModel as PythonModel
from .loaded import Bundle as Bundle, load as load
from .model_files import CodeOptions as CodeOptions, read_model as read_model
from .opening import open_program as open_program, pinned_program as pinned_program
from .packing import pack as pack
from .rebuilding import Rebuilt as Rebuilt, rebuild as rebuild
from .statements.cost import Cost as Cost
from .statements.parity import Parity as Parity
from .table_files import (
    as_table as as_table,
    as_trained as as_trained,
    check_growth as check_growth,
    check_output as check_output,
    read_rows as read_rows,
    read_stream as read_stream,
    split_truth as split_truth,
    write_table as write_table,
)
from .tables import (
    as_dtype as as_dtype,
    conform as conform,
    for_program as for_program,
    is_missing as is_missing,
    read_table as read_table,
    read_truth as read_truth,
    take as take,
)
