"""The same fold for the same chemistry at every party, by a secret key and without showing data."""
