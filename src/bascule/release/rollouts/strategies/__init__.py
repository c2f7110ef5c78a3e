"""Strategies of rollouts: one file each, listed in `deciding`."""
