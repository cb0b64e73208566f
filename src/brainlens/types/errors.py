"""The one error of users."""


class DataError(ValueError):
    """A mistake in the data or in what was asked of it; its text is one line that names the way out."""
