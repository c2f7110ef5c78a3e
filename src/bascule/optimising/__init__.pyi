from .devices import Device as Device, read_device as read_device
from .front import Candidate as Candidate, draw as draw, front_of as front_of
from .searching import criteria_of as criteria_of, graph_of as graph_of, optimise as optimise
