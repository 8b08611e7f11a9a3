"""The run config, a file a theme."""
