"""Where names come from: a URL, a directory index, a manifest, a registry."""
