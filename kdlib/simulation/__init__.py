"""The embedded default input: a clickstream drawn from a hidden Markov model, and that model's exact prediction."""
