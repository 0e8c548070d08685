"""Learning from an expert's episodes: a reward or a critic's loss on top of an algorithm, never a fork of it."""
