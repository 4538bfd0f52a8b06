"""The one error class of the package."""


class MatchError(ValueError):
    """Anything a user can put right: the message says what was given, what is wrong and what to do."""
