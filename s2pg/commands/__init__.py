"""What the subcommands of `s2pg` do: a module each, imported when called; `s2pg --help` needs no torch."""
