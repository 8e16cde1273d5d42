"""The adapters to OpenFL's Task Runner API: real federations of learners and joins under ``fx``."""
