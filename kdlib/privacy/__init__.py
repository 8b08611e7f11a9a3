"""Pseudonyms and forgetting."""
