"""Recipes of a student against each other."""
