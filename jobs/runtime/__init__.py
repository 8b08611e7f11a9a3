"""How stages are run: engines, locks, the console. Nothing here imports a stage."""
