"""Measurements: each command prints what it measured, and on what."""
