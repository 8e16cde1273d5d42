"""Releases: a model with its history in a folder that N of M parties have signed.

Nothing here needs more than the standard library and ``cryptography``: a release is verified before
anything in it is loaded, on machines that have neither PyTorch nor OpenFL.
"""
