"""Servers that have no project of their own: the ones that are written by hand."""
