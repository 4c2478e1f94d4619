"""The receiver (receiver.c); receiving.py has the words for it."""

def receive(
    socket: int,
    blocks: list[bytearray],
    most: int,
    seconds: float,
    bell: int,
    place: tuple[int, int, int],
    progress: bytearray,
    /,
) -> int: ...
