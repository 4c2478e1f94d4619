"""The layers of container images: what is in them, where its bytes are, and the tree that they make together."""
