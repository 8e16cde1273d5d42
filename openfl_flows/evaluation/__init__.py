"""Federated evaluation: finished models on every site's private benchmark, sums leaving only."""
