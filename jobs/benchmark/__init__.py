"""Compare recipes of a student."""
