"""Measures a network's steps on every backend of this machine, and checks that its results are right."""
