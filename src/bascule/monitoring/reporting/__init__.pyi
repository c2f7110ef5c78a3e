from .facts import look_at as look_at
from .overview import Overview as Overview
from .page import document_of as document_of, write_report as write_report
from .view import report_of as report_of
