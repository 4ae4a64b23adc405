"""Answers in; text, SVG, PNG, HTML out; pure functions."""
