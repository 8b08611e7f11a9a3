"""What decides whether a run goes out, and where to."""
