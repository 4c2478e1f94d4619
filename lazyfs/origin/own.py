"""Which origins are asked in a way of their own, and how.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lazyfs.options import OriginOptions, Place


class Own:
    """What is said of origins one by one; looked up for each request, so that what is found is kept."""

    def __init__(self, origins: Iterable[OriginOptions] = ()) -> None:
        self._said = {own.place: own for own in origins}
        self._found: dict[Place, OriginOptions] = {}

    def __iter__(self) -> Iterator[OriginOptions]:
        return iter(self._said.values())

    def of(self, place: Place) -> OriginOptions:
        """Return what is said of an origin: by its name, else for the narrowest domain that it is below."""
        found = self._found.get(place)
        if found is None:
            found = next((self._said[name] for name in _names(place) if name in self._said), OriginOptions(place))
            self._found[place] = found
        return found


def _names(place: Place) -> Iterator[Place]:
    scheme, host, port = place
    yield place
    while host := host.partition(".")[2]:
        yield scheme, f"*.{host}", port
