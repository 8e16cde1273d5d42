"""The names by which the plan of this workspace finds code; the code is the package's."""
