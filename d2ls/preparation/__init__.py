"""Preparation of the data sets: archives to originals, originals to patches, and their checks."""
