lazyfs mount https://example.org/images/ /mnt/images
ls -lh /mnt/images
dd if=/mnt/images/debian.raw bs=1M skip=20 count=3 status=none | sha256sum
lazyfs map /mnt/images/debian.raw
lazyfs umount /mnt/images
