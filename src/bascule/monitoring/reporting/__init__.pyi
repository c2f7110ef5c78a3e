from .facts import look_at as look_at
from .overview import Overview as Overview
from .page import render_report as render_report, write_report as write_report
