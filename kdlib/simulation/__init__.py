"""The built-in default input: a clickstream drawn from a hidden Markov model, and the model's exact prediction."""
