from . import operations as operations
from .choosing import choose as choose, review_draw as review_draw
from .operations import Review as Review
from .rules import ReviewRule as ReviewRule
from .store import ReviewStore as ReviewStore
