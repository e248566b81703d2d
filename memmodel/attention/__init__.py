"""What is asked of attention: the case, its mask, its scores, its cache, and tiles."""
