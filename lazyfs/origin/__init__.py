"""The origin: asking HTTP servers for bytes, and believing no more than they prove."""
