"""Reading the files of an image: from pieces of layers, wherever those have them."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from lazyfs.errors import LayerError
from lazyfs.layers.members import Packing, Piece
from lazyfs.rootfs.nodes import ImageFile
from lazyfs.rootfs.pieces import Pieces
from lazyfs.rootfs.streams import Streams

_ZEROS: Final = memoryview(bytes(1 << 20))


class Contents:
    """Reads files of images."""

    def __init__(self, pieces: Pieces, streams: Streams) -> None:
        self._pieces = pieces
        self._streams = streams

    async def read(self, file: ImageFile, offset: int, length: int) -> list[memoryview]:
        """Return bytes of a file, cut at its end only, in pieces.

        *Raises*: LayerError; as `Blob.read_pieces`. *Cancellation*: at any time. *Units*: bytes.
        """
        stop = min(offset + length, file.member.size)
        pieces = file.member.pieces
        found: list[memoryview] = []
        number = bisect_right(pieces, offset, key=lambda piece: piece.offset) - 1
        while offset < stop:
            piece = pieces[number] if 0 <= number < len(pieces) else None
            if piece is None or not piece.offset <= offset < piece.offset + piece.length:
                raise LayerError(f"layer {file.layer.digest}: it does not say where byte {offset} of /{file.path} is")
            count = min(stop, piece.offset + piece.length) - offset
            found += await self._of_piece(file, piece, offset - piece.offset, count)
            offset += count
            number += 1
        return found

    async def _of_piece(self, file: ImageFile, piece: Piece, start: int, count: int) -> list[memoryview]:
        if piece.packing is Packing.ZEROS:
            return [_ZEROS[: min(len(_ZEROS), count - done)] for done in range(0, count, len(_ZEROS))]
        if piece.packing is not Packing.PLAIN:
            return [memoryview(await self._pieces.content(file.layer, piece))[start : start + count]]
        async with self._streams.reading(file.layer) as blob:
            return await blob.read_pieces(piece.at + start, count)
