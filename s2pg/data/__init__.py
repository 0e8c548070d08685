"""Rollouts, their cutting into sequences, observation statistics."""
