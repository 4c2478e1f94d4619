"""README.md, run: every block of it, as it stands, in a world where what it names is there."""
