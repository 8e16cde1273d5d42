"""Codecs: pure functions between flat arrays and the fewer bytes that travel for them."""
