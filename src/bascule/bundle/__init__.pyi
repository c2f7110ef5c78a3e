from . import card as card, disk as disk, tables as tables
from .answer import Answer as Answer, Places as Places, flat as flat, places_of as places_of
from .card import (
    Said as Said,
    card_json as card_json,
    card_page as card_page,
    fairness_blocks as fairness_blocks,
    gates_table as gates_table,
    lineage_lines as lineage_lines,
    overview as overview,
    parity_plot as parity_plot,
    render as render,
    sections as sections,
)
from .card_plots import plots as plots
from .choosing import is_ever_fastest as is_ever_fastest, pinned as pinned
from .disk.folder import read_manifest as read_manifest
from .disk.manifest import Manifest as Manifest
from .encrypted import (
    Encrypted as Encrypted,
    answer_encrypted as answer_encrypted,
    decrypt_answers as decrypt_answers,
    encrypt_rows as encrypt_rows,
    new_client_key as new_client_key,
)
from .loaded import Bundle as Bundle, load as load
from .opening import (
    PARTS as PARTS,
    composition_of as composition_of,
    open_original as open_original,
    open_program as open_program,
    pinned_program as pinned_program,
)
from .statements.cost import Cost as Cost
from .tables import (
    FIRST_SHARED as FIRST_SHARED,
    MATRIX as MATRIX,
    Kind as Kind,
    Table as Table,
    are_wide as are_wide,
    as_dtype as as_dtype,
    conform as conform,
    for_program as for_program,
    is_missing as is_missing,
    missing as missing,
    read_table as read_table,
    read_truth as read_truth,
    recombined as recombined,
    take as take,
    take_rows as take_rows,
)
from .texts import Prepared as Prepared, Texts as Texts
