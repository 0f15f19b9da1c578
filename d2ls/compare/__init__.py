"""Comparisons of several configs over several seeds."""
