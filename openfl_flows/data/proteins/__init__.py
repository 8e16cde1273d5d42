"""Proteins with what is to be learned of them, read from biotrainer's FASTA."""
