"""WHAT is computed: one file a kernel family."""
