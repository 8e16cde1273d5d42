"""Models that the learners train; each sub-package knows one model and nothing of federation."""
