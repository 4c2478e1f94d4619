"""`python -m lazyfs`."""

from lazyfs.cli import main

main()
