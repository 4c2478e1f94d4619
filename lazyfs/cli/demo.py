"""demo."""


def run() -> None:
    """Not there yet."""
    raise NotImplementedError
