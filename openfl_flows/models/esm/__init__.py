"""ESM-2 with a head, through transformers: its sizes, what of it trains, and its embeddings.

Shapes: B sequences, L tokens of the longest, D the width of the encoder, C outputs.
"""
