"""Imitation of an expert: a reward or a critic's loss on top of an algorithm."""
