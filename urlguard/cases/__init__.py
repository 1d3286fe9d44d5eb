"""
What analysts decide about: candidates from all sources, gathered into cases, ranked, decided once.

Knows names, scores and people's decisions; no HTTP, no sockets and no model: what the models say
comes in as check objects.  `claims`, `decide` and `unblocking` alone meet the policy log.
"""
