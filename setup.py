"""The C parts, manual pages and completions, which pyproject.toml has no settled words for; all else is there."""

import sys
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build import build

ROOT = Path(__file__).parent


class BuildShared(Command):
    """Make what goes to share/ beside the package: manual pages, and what makes shells complete."""

    description = "make manual pages and completions"
    user_options: list[tuple[str, str, str]] = []  # noqa: RUF012 - as setuptools has it

    def initialize_options(self) -> None:
        """There is nothing to say."""

    def finalize_options(self) -> None:
        """There is nothing to work out."""

    def run(self) -> None:
        """Write them below build/, and have them installed. Without click there are none."""
        sys.path.insert(0, str(ROOT))
        try:
            from lazyfs.cli import completing, manual
        except ImportError as exc:
            self.warn(f"no manual pages and completions: {exc}")
            return
        made = {f"share/man/man{name[-1]}/{name}": text for name, text in manual.pages()}
        made["share/bash-completion/completions/lazyfs"] = completing.script("bash")
        made["share/zsh/site-functions/_lazyfs"] = completing.script("zsh")
        made["share/fish/vendor_completions.d/lazyfs.fish"] = completing.script("fish")
        self.distribution.data_files = self.distribution.data_files or []
        for name, text in made.items():
            path = Path("build", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            self.distribution.data_files.append((str(Path(name).parent), [str(path)]))


build.sub_commands.append(("build_shared", None))

setup(
    cmdclass={"build_shared": BuildShared},
    ext_modules=[
        Extension(
            "lazyfs.native.front",  # a plain library, no module: lazyfs/native/__init__.py loads it
            [f"lazyfs/native/{name}.c" for name in ("front", "shortcut", "checksum")],
            depends=["lazyfs/native/shortcut.h"],
            define_macros=[("_FILE_OFFSET_BITS", "64")],
            libraries=["fuse3", "dl"],
            optional=True,  # without a compiler or the headers the package installs all the same
        ),
        Extension(
            "lazyfs.native.receiver",
            ["lazyfs/native/receiver.c"],
            define_macros=[("_FILE_OFFSET_BITS", "64")],
            depends=["lazyfs/native/filling.h"],
            optional=True,
        ),
        Extension(
            "lazyfs.native.tls",
            ["lazyfs/native/tls.c"],
            define_macros=[("_FILE_OFFSET_BITS", "64")],
            depends=["lazyfs/native/filling.h"],
            libraries=["ssl", "crypto"],
            optional=True,
        ),
    ],
)
