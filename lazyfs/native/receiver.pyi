"""The receiver (receiver.c); receiving.py has the words for it."""

from lazyfs.native.receiving import Place

def receive(
    socket: int,
    blocks: list[bytearray],
    most: int,
    seconds: float,
    bell: int,
    place: Place,
    progress: bytearray,
    /,
) -> int: ...
