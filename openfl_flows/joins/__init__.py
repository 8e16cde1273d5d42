"""Joins: pure functions that make one global model of many updates."""
