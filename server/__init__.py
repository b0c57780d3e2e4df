"""HTTP only: authenticate, parse, call the store or an engine, shape the reply."""
