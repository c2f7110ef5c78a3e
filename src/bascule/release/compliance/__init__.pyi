from .drafting import (
    DocumentList as DocumentList,
    draft as draft,
    front_matter as front_matter,
    known_lists as known_lists,
    read_answers as read_answers,
    read_list as read_list,
)
from .gathering import gather as gather
