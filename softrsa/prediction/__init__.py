"""Regression by neighbors: heads, an estimator, experiments."""
