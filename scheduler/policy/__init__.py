"""What decides, and does nothing: pure functions and small ledgers over plain values, without I/O, clock or chance."""
