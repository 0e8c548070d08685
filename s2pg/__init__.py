"""Stochastic stateful policy gradient (S2PG) and its rivals: one learner, memory as an axis."""

__version__ = "0.1.0"
