"""Images under a mount: `rootfs/`, the merged tree of an image's layers, read from the layers as they are."""
