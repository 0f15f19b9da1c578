"""From what is downloaded to what is trained on: archives to originals, originals to patches, and their checks."""
