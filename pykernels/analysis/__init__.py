"""Records in, answers out; pure functions."""
