"""Kinds of findings: their names are all that is ever said of a finding outside the site."""

MOLECULE_KINDS = {
    "cells": "rows with more or fewer cells than the header",
    "smiles": "SMILES that RDKit refuses, or none",
    "atoms": "molecules with too few or too many heavy atoms",
    "element": "molecules with an atom outside the agreed classes",
    "fragments": "entries of several molecules",
    "number": "labels that are no finite number",
    "unit": "labels outside their range that are inside it in another unit",
    "range": "labels outside their range",
    "duplicate": "molecules that occurred before",
}
"""Of rows of a table of molecules."""

PROTEIN_KINDS = {
    "name": "records without a name",
    "key": "records with a misspelt, repeated or missing key",
    "part": "records whose SET is none",
    "target": "records without a target, or with one of another length than the sequence",
    "class": "records of a class outside the agreed ones",
    "number": "targets that are no finite number",
    "unit": "targets outside their range that are inside it in another unit",
    "range": "targets outside their range",
    "letter": "sequences with a letter outside the alphabet",
    "length": "sequences that are too short or too long",
    "mask": "records with a mask that is none",
    "header": "headers that cannot be read for another reason",
    "duplicate_name": "records with a name that occurred before",
    "duplicate_sequence": "records with a sequence that occurred before",
}
"""Of records of a FASTA file."""

STRUCTURE_KINDS = {
    "entry": "structures whose entry lacks what it should have",
    "date": "structures with a release date that is none, or outside its range",
    "chains": "structures with too few or too many chains",
    "polymer": "structures with a kind of chain that was not agreed on",
    "tokens": "structures that are too small or too large",
    "number": "resolutions that are no finite number",
    "unit": "resolutions outside their range that are inside it in another unit",
    "range": "resolutions outside their range",
    "file": "structures whose files are not there or cannot be read",
    "ligand": "structures with a ligand whose bonds are not there",
}
"""Of structures of a prepared set."""

FILE_KINDS = {
    "absent": "no data at the place where they are looked for",
    "unreadable": "a file that cannot be read",
    "columns": "columns that are missing or occur twice",
    "rows": "too few or too many that can be used",
    "missing": "labels of which too many are missing",
    "median": "labels whose median is not of this unit",
    "split": "parts to train, validate or test that are too small",
}
"""Of the data as a whole: none of them is tolerated."""

KINDS = frozenset({*MOLECULE_KINDS, *PROTEIN_KINDS, *STRUCTURE_KINDS, *FILE_KINDS})
"""All of them."""
