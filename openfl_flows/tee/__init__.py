"""Enclaves: the Gramine manifest of a party, written out whole, and what a manifest lets a host do.

Standard library only: what is measured can be listed and looked at without what is measured.
"""
