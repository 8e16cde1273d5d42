"""Structures of proteins with their ligands: prepared, checked, chosen and dealt to sites."""
