"""Pure decisions and mathematics: the preference model, routing, candidates, rewards and selection.

Knows numpy and torch only: no I/O, no clock, no global random state, no web, no Ray, no Redis, no FAISS.
"""
