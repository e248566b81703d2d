"""The explorer: one HTML page that computes predictions by itself, from the symbolic programs and a few rules."""
