"""
What analysts decide about: candidates from all sources, gathered into cases, ranked, decided once.

Knows names, scores and people's decisions; no HTTP, no sockets, no policy log and no model: what
the models say comes in as check objects, and what was decided goes out for somebody else to commit.
"""
