"""What a layer may say, and how much of it: names, attributes, numbers.  Pure.

A layer comes from whoever pushed it, so nothing in it is believed. Names lead nowhere but into the tree: a name that is
absolute or has a `..` is refused. (umoci and containerd take both to be meant from the tree's root. Nobody's tools
write `..`; what some of them write is the absolute target of a hard link, and that is taken so here, too.) What a
kernel's file system could not hold is refused, and so is what would not fit into memory.

*Units*: bytes, as the kernel counts them. *Source*: linux/limits.h; OCI image-spec v1.1, layer.md; umoci
oci/layer/utils.go, `CleanPath`; Go's archive/tar, `maxSpecialFileSize`.
"""

from __future__ import annotations

from lazyfs.errors import LayerError
from lazyfs.layers.members import Member, Type

NAME_MAX = 255
PATH_MAX = 4096
"""As long may a path be, and so at most half as deep."""
XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65536
SIZE_MAX = 2**63 - 1
HEADER_MAX = 1024 * 1024
"""Of one extended header or sparse map in a tar."""
MEMBERS_MAX = 2_000_000
TEXT_MAX = 256 * 1024 * 1024
"""Of all names, targets and attributes of a layer together, each attribute counted as 100 bytes more than it has."""
PIECES_EACH = 4
"""Pieces of content, on the average of as many members as there may be."""

# What a host says of files, and what overlayfs, with our tree below, would obey. umoci leaves them out, too.
_HOSTS = ("security.selinux", "system.nfs4_acl", "trusted.overlay.")
_OWNER_MAX = 2**32 - 2  # the last one means "leave it as it is" to chown
_MAJOR_MAX, _MINOR_MAX = 2**12 - 1, 2**20 - 1


def shown(name: str) -> str:
    """Return a name as a message shows it: quoted, on one line, not too long."""
    text = repr(name[:100])  # of bytes that are no text, each takes six characters
    return text if len(text) <= 110 and len(name) <= 100 else f"{text[:97]}...{text[0]}"


def path_of(name: str) -> str:
    """Return the path for a name in a layer, without slashes at its ends, `.` and empty parts.

    *Raises*: LayerError, when it is absolute, has a `..` or a NUL, or is too long.
    """
    path = _inside(name)
    if path and name[0] == "/":
        raise LayerError(f"the name {shown(name)} is absolute")
    return path


def link_path(target: str) -> str:
    """Return the path of the file that a hard link's target names; an absolute one starts at the layer's root.

    *Raises*: LayerError, as `path_of`, and for the root itself.
    """
    path = _inside(target)
    if not path:
        raise LayerError(f"a hard link leads to {shown(target)}, which is no file")
    return path


def _inside(name: str) -> str:
    parts = name.split("/")
    if "" in parts or "." in parts:
        parts = [part for part in parts if part and part != "."]
    if ".." in parts:
        raise LayerError(f"the name {shown(name)} leads out with '..'")
    path = "/".join(parts)
    if path.isascii():
        longest = max(map(len, parts), default=0)
    else:
        path = _normal(path)
        longest = max(len(_bytes(part)) for part in parts)
    if longest > NAME_MAX:
        raise LayerError(f"the name {shown(name)} has a part of {longest} bytes; at most {NAME_MAX} are possible")
    return _text(path, "name")


def symlink_target(target: str) -> str:
    """Return the target of a symbolic link, which may lead anywhere, as it would without us.

    *Raises*: LayerError, when no symbolic link can hold it.
    """
    if not target:
        raise LayerError("a symbolic link leads nowhere")
    return _text(_normal(target), "symbolic link's target")


def _text(text: str, what: str) -> str:
    if "\0" in text:
        raise LayerError(f"the {what} {shown(text)} has a NUL")
    if len(text) >= PATH_MAX or (not text.isascii() and len(_bytes(text)) >= PATH_MAX):
        raise LayerError(f"the {what} {shown(text)} is too long")
    return text


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise LayerError(f"{shown(text)} is no text that a name could be") from exc


def _normal(text: str) -> str:
    """Return the one `str` for these bytes: escapes that make up a character after all are that character."""
    return text if text.isascii() else _bytes(text).decode("utf-8", "surrogateescape")


def xattrs(pairs: dict[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """Return extended attributes in the order of their names, without those that are not for a layer to say.

    *Raises*: LayerError, for one that the kernel would not take.
    """
    for name, value in pairs.items():
        if not name or "\0" in name or len(_bytes(name)) > XATTR_NAME_MAX:
            raise LayerError(f"an extended attribute cannot have the name {shown(name)}")
        if len(value) > XATTR_SIZE_MAX:
            raise LayerError(f"the extended attribute {shown(name)} has {len(value)} bytes; {XATTR_SIZE_MAX} may be")
    return tuple(sorted((_normal(name), value) for name, value in pairs.items() if not name.startswith(_HOSTS)))


def number(value: int, what: str, most: int = SIZE_MAX) -> int:
    """Return a number of at least 0 and not above `most`.

    *Raises*: LayerError, which calls it `what`.
    """
    if not 0 <= value <= most:
        raise LayerError(f"the {what} is out of range")
    return value


def owner(value: int, what: str) -> int:
    """Return the number of a user or a group.

    *Raises*: LayerError.
    """
    return number(value, what, _OWNER_MAX)


def device(major: int, minor: int) -> tuple[int, int]:
    """Return the numbers of a device.

    *Raises*: LayerError.
    """
    return number(major, "device's major number", _MAJOR_MAX), number(minor, "device's minor number", _MINOR_MAX)


def time_ns(value: int) -> int:
    """Return a time that fits into a signed 64-bit count of nanoseconds: from 1677 to 2262.

    *Raises*: LayerError.
    """
    if not -(2**63) <= value < 2**63:
        raise LayerError("a time of modification is out of range")
    return value


class Allowance:
    """How much a layer may still say. *Units*: `text` bytes."""

    __slots__ = ("_members", "_most", "_pieces", "_text")

    def __init__(self, most: int = MEMBERS_MAX, text: int = TEXT_MAX) -> None:
        self._most = self._members = most
        self._pieces, self._text = PIECES_EACH * most, text

    def take(self, member: Member) -> Member:
        """Count a member, and return it.

        *Raises*: LayerError, when it is one too many.
        """
        self._members -= 1
        if self._members < 0:
            raise LayerError(f"the layer has more than {self._most} members")
        self._pieces -= len(member.pieces)
        if self._pieces < 0:
            raise LayerError("the layer's content is in too many pieces")
        self._text -= len(member.path) + len(member.target)
        for name, value in member.xattrs:
            self._text -= len(name) + len(value) + 100
        if self._text < 0:
            raise LayerError("the layer's names and attributes are too long, all together")
        if not member.path and member.type is not Type.DIRECTORY:
            raise LayerError(f"the layer's root is said to be a {member.type.value}")
        return member
