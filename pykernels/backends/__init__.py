"""HOW a kernel runs: one file a technology."""
