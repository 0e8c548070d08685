"""Learning from an expert: a reward, or a loss of the critic, on top of an algorithm; never a fork of one."""
