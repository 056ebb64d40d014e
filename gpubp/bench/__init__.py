"""Measuring: a network's steps on every backend of this machine, and whether what is computed on it is right."""
