"""Whether a party is ready for its federation: probes, a signed verdict, and who may begin.

A site looks at itself before round 1 and says in a signed verdict what it found; the aggregator
begins a round only with sites whose verdicts are green.
"""
