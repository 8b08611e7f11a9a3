"""Pseudonyms of users, and the removal of a user from all outputs."""
