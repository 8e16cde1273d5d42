"""Certificates for mutual TLS, in OpenFL's file layout: who may be the aggregator, who a site.

Below one root stand two issuing authorities, one for servers and one for clients, so that no
site's certificate can stand for the aggregator. Names come from the plan, never from a request.
"""
