"""One file per algorithm; an algorithm serves every memory."""
