"""Learners: each trains one model on one site's data, and is all that knows the model."""
