from . import operations as operations
from .choosing import choose as choose
from .operations import Review as Review
from .rules import ReviewRule as ReviewRule
from .store import ReviewStore as ReviewStore
