"""What methods cost: multiply-adds from shapes, bytes kept for the backward, measured ratios."""
