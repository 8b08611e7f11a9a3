"""The run config: one file for each theme."""
