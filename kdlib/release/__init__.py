"""Whether a run is published, which run is in use, how long old runs stay, and where the tables are delivered."""
