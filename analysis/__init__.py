"""From run folders to statistics, tables, figures, verdicts and the report.

Reads only `results/`; never imports torch, s2pg or envs, so a laptop without torch can rebuild every figure.
"""
