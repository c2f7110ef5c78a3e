from .erasing import (
    Erasure as Erasure,
    Place as Place,
    proof_of as proof_of,
    record as record,
)
from .exporting import (
    export_about as export_about,
    write_export as write_export,
)
from .operations import ErasureShown as ErasureShown, HeldPlaces as HeldPlaces
from .persons import ERASED as ERASED, Person as Person
from .proofs import (
    Verified as Verified,
    content_of as content_of,
    verify_proof as verify_proof,
)
