"""The one error that the command line turns into one line and exit code 2."""


class AnalysisError(ValueError):
    """The user's data or arguments are wrong; the message names the file, the key and what is allowed."""
