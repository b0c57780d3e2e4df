"""Plain arithmetic over plain values: deadlines, estimates, the shape of a result line."""
