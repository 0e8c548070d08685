"""What a policy gradient costs in variance when the past goes through a stochastic memory or through its derivative."""
