from .erasing import Erasure as Erasure, proof_of as proof_of
from .exporting import export_about as export_about
from .operations import HeldPlaces as HeldPlaces
from .persons import ERASED as ERASED, Person as Person
from .proofs import (
    content_of as content_of,
    verify_proof as verify_proof,
)
