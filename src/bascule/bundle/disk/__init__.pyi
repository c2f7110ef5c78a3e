from . import folder as folder
from .bodies import check_body as check_body
from .diff import (
    Difference as Difference,
    Facts as Facts,
    differences as differences,
    versions_of as versions_of,
)
from .examples import columns_of as columns_of, example_body as example_body
from .folder import (
    check_file as check_file,
    copy_file as copy_file,
    digest_of as digest_of,
    drafting as drafting,
    read_file as read_file,
    read_manifest as read_manifest,
    read_statements as read_statements,
    statements_by_file as statements_by_file,
    statements_changed_ns as statements_changed_ns,
    write_file as write_file,
    write_manifest as write_manifest,
    write_statement as write_statement,
)
from .heldout import from_parquet as from_parquet, to_parquet as to_parquet
from .limits import (
    FREE_ARCHIVE_BYTES as FREE_ARCHIVE_BYTES,
    MAX_ARCHIVE_BYTES as MAX_ARCHIVE_BYTES,
    MAX_ARCHIVE_GROWTH as MAX_ARCHIVE_GROWTH,
    MAX_ARCHIVE_MEMBERS as MAX_ARCHIVE_MEMBERS,
    MAX_ARRAY_HEADER_BYTES as MAX_ARRAY_HEADER_BYTES,
    MAX_FILES as MAX_FILES,
    MAX_GRAPH_DEPTH as MAX_GRAPH_DEPTH,
    MAX_GROWN_ELEMENTS as MAX_GROWN_ELEMENTS,
    MAX_INLINED as MAX_INLINED,
    MAX_MANIFEST_BYTES as MAX_MANIFEST_BYTES,
    MAX_NODES as MAX_NODES,
    MAX_SCHEMA_BYTES as MAX_SCHEMA_BYTES,
    MAX_STATEMENT_BYTES as MAX_STATEMENT_BYTES,
    MAX_STATEMENTS as MAX_STATEMENTS,
    MAX_STEPS as MAX_STEPS,
    MAX_TENSOR_ELEMENTS as MAX_TENSOR_ELEMENTS,
    MAX_TREE_DEPTH as MAX_TREE_DEPTH,
)
from .manifest import (
    BASELINE as BASELINE,
    CALIBRATION as CALIBRATION,
    CARD as CARD,
    CLASSIFICATIONS as CLASSIFICATIONS,
    ENVIRONMENT as ENVIRONMENT,
    EXAMPLE as EXAMPLE,
    EXPLAINING as EXPLAINING,
    EXPLAINING_ARRAYS as EXPLAINING_ARRAYS,
    FEATURES as FEATURES,
    GENERATION as GENERATION,
    ISOLATED as ISOLATED,
    MANIFEST as MANIFEST,
    ORIGINAL as ORIGINAL,
    OUTLIER_SCORER as OUTLIER_SCORER,
    OUTLIERS as OUTLIERS,
    RANKING as RANKING,
    REGRESSIONS as REGRESSIONS,
    STATEMENTS as STATEMENTS,
    SURVIVAL as SURVIVAL,
    TEST_DATA as TEST_DATA,
    TRUTHS as TRUTHS,
    Label as Label,
    Manifest as Manifest,
    OriginalEntry as OriginalEntry,
    ProgramEntry as ProgramEntry,
    Statement as Statement,
    Target as Target,
    generates_text as generates_text,
)
from .passports import (
    PASSPORT as PASSPORT,
    check_claims as check_claims,
    open_passport as open_passport,
    parse_claim as parse_claim,
    sign_passport as sign_passport,
    valid_passports as valid_passports,
)
from .reading import parse as parse, reading as reading, shaped as shaped
from .signatures import (
    FILE as FILE,
    Verified as Verified,
    sign_bundle as sign_bundle,
    signature_beside as signature_beside,
    verify_bundle as verify_bundle,
)
