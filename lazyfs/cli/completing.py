"""Completion in shells: by click's own mechanism, but for paths, which the shell itself would look at.

A shell completes paths by a look at each, and whoever looks at a mount that is stuck waits for ever. So we list
directories ourselves, by their entries alone, in a process that is given up when that takes long; and the scripts take
all that we say as it is.

*Source*: click.shell_completion; bash(1), "Programmable Completion"; zshcompwid(1), compadd; fish's complete(1).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from lazyfs import mountinfo
from lazyfs.cli.apart import begin
from lazyfs.options import default_path

VARIABLE: Final = "_LAZYFS_COMPLETE"
"""Set by the scripts when they ask."""

PATIENCE: Final = 1.0
"""Seconds for a directory's entries."""

SHOWN: Final = 20
"""Characters of a blob's id, as `ls` shows it."""

BASH: Final = """\
# Completion of lazyfs in bash. Put this into ~/.local/share/bash-completion/completions/lazyfs, or for all users into
# /usr/share/bash-completion/completions/lazyfs; without the package bash-completion: into ~/.bashrc.
%(complete_func)s() {
    mapfile -t COMPREPLY < <(IFS=$'\\n'
        COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS=$COMP_WORDBREAKS \\
            %(complete_var)s=bash_complete "$1" 2>/dev/null)
    if [[ -z ${COMPREPLY[0]} ]]; then COMPREPLY=(); fi
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace; fi
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

ZSH: Final = """\
#compdef %(prog_name)s
# Completion of lazyfs in zsh. Put this as _lazyfs into a directory that $fpath names before compinit runs, as
# /usr/local/share/zsh/site-functions is; or into ~/.zshrc, below compinit.
%(complete_func)s() {
    local -a answer directories others shown
    local line value
    answer=("${(@f)$(export COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1))
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for line in $answer; do
        [[ -n $line ]] || continue
        value=${line%%%%$'\\t'*}
        if [[ $value == */ ]]; then
            directories+=("$value")
        else
            others+=("$value")
            shown+=("${line/$'\\t'/  -- }")
        fi
    done
    if (( $#others )); then compadd -U -V others -l -d shown -a others; fi
    if (( $#directories )); then compadd -U -V directories -S '' -a directories; fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

FISH: Final = """\
# Completion of lazyfs in fish. Put this into ~/.config/fish/completions/lazyfs.fish, or for all users into
# /usr/share/fish/vendor_completions.d/lazyfs.fish.
function %(complete_func)s
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -t)
    %(complete_var)s=fish_complete %(prog_name)s 2>/dev/null
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""

_SPECIAL: Final = {"": re.compile(r"([^\w@%+=:,./~-])"), '"': re.compile(r'([\\"$`])')}
"""What bash would take apart, outside quotes and in double ones; it puts what we say into the line as it is."""


@dataclass(slots=True)
class _Typed:
    """A line as bash understands it: `there` is what of the `last` word stays, `quote` what it is open in."""

    words: list[str] = field(default_factory=list)
    last: str = ""
    there: str = ""
    quote: str = ""

    @classmethod
    def of(cls, line: str, breaks: str) -> Self:
        """Take a line apart. *Source*: bash(1), "Quoting"; COMP_WORDBREAKS."""
        typed, rest, begun, outside = cls(), iter(line), False, ""
        for char in rest:
            if char == "\\" and typed.quote != "'":
                escaped = next(rest, "")
                typed.last += "\\" * (typed.quote == '"' and escaped not in '"\\$`') + escaped
            elif char == typed.quote:
                typed.quote, typed.there = "", outside
            elif char in "'\"" and not typed.quote:
                outside, typed.there = typed.there, typed.last
                typed.quote, begun = char, True
            elif char.isspace() and not typed.quote:
                if typed.last or begun:
                    typed.words.append(typed.last)
                typed.last, typed.there, begun = "", "", False
            else:
                typed.last += char
                if char in breaks and not typed.quote:
                    typed.there = typed.last
        return typed


class _Ours(ShellComplete):
    """What all shells have of ours: a line for each word that may stand there, perhaps with a tab and what it means."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return the words that may stand there, also behind `--option=` and `NAME=`."""
        found = self._completions(args, incomplete)
        name, equals, rest = incomplete.partition("=")
        is_option = name.startswith("-")
        if not equals or (found and not is_option):
            return found
        found = found if is_option else self._completions(args, rest)
        return [CompletionItem(f"{name}={item.value}") for item in found]

    def _completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return what click has to say, paths of ours in place of the shell's."""
        found = []
        for item in super().get_completions(args, incomplete):
            if item.type == "plain":
                found.append(item)
            else:
                found += map(CompletionItem, paths(item.value, directories=item.type == "dir"))
        return found

    def format_completion(self, item: CompletionItem) -> str:
        """Return a line."""
        about = f"\t{item.help}".replace("\n", " ") if item.help else ""
        return f"{item.value}{about}"


class _Bash(_Ours, BashComplete):
    """Bash takes a line apart further than a shell does, and replaces only what stands behind the last cut."""

    source_template = BASH
    typed = _Typed()

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words of the line, and the one that is not at its end."""
        self.typed = _Typed.of(os.environ["COMP_WORDS"], os.environ.get("COMP_BREAKS", ":="))
        return self.typed.words[1:], self.typed.last

    def format_completion(self, item: CompletionItem) -> str:
        """Return what replaces the end of the line."""
        word: str = item.value.removeprefix(self.typed.there)
        if self.typed.quote == "'":
            return word.replace("'", r"'\''")
        return _SPECIAL[self.typed.quote].sub(r"\\\1", word)


class _Zsh(_Ours, ZshComplete):
    source_template = ZSH


class _Fish(_Ours, FishComplete):
    source_template = FISH


SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def register() -> None:
    """Have click use these."""
    for name, shell in SHELLS.items():
        add_completion_class(shell, name)


def script(shell: str) -> str:
    """Return what makes a shell complete."""
    from lazyfs.cli.commands import commands

    return SHELLS[shell].source_template % SHELLS[shell](commands, {}, "lazyfs", VARIABLE).source_vars()


def words(kinds: tuple[str, ...], ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Return what may stand where something of these kinds is meant: `mount`, `blob`, `path`."""
    found: list[str] = []
    if "mount" in kinds:
        end = "/" * ("path" in kinds)  # a name below it is meant
        found += (each.mountpoint + end for each in mountinfo.mounts() if each.fstype == mountinfo.FSTYPE)
    if "blob" in kinds and "/" not in incomplete:
        found += blobs(ctx.params.get("store") or _configured_store())
    if "path" in kinds and ("/" in incomplete or kinds == ("path",)):
        found += paths(incomplete)
    return [CompletionItem(word) for word in dict.fromkeys(found) if word.startswith(incomplete)]


def _configured_store() -> Path:
    from lazyfs import configuration  # only for blobs

    return Path(configuration.look().parameters().get("store") or default_path())


def blobs(store: Path) -> list[str]:
    """Return the blobs of a store, as `ls` shows their ids."""
    return sorted({name[:SHOWN] for name in _told(_blobs, str(store))})


def paths(incomplete: str, *, directories: bool = False) -> list[str]:
    """Return the paths that begin so, directories with a slash at their end."""
    before, slash, start = incomplete.rpartition("/")
    found = _told(_entries, before + slash)
    wanted = (name for name in found if name.startswith(start) and (start or not name.startswith(".")))
    return sorted(before + slash + name for name in wanted if name.endswith("/") or not directories)


def _told(lines: Callable[[str], Iterator[str]], place: str) -> list[str]:
    """Return what is told of a place in time."""
    found: list[str] = []
    with contextlib.suppress(TimeoutError):
        found.extend(begin(PATIENCE, lines, place).lines())
    return found


def _entries(directory: str) -> Iterator[str]:
    """Yield the names in a directory. Of a symbolic link it is not asked what it leads to: both are possible."""
    with os.scandir(Path(directory).expanduser()) as entries:
        for entry in entries:
            if "\n" not in entry.name:
                yield entry.name + "/" * entry.is_dir(follow_symlinks=False)


def _blobs(store: str) -> Iterator[str]:
    for directory in Path(store, "blobs").expanduser().glob("*/*"):
        yield directory.name
