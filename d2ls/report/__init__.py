"""A picture of a test run: one HTML file that opens from the disk and needs nothing else."""
