"""Training on several ranks: small programs that run on real processes and are traced, and their comparison."""
