/* What front.c asks of shortcut.c, and the head of every request of the kernel's. */
#ifndef LAZYFS_SHORTCUT_H
#define LAZYFS_SHORTCUT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct in_header {
	uint32_t len, opcode;
	uint64_t unique, nodeid;
	uint32_t uid, gid, pid;
	uint16_t total_extlen, padding;
};

struct out_header {
	uint32_t len;
	int32_t error;
	uint64_t unique;
};

/* Return what is to be watched for requests in the place of FUSE's descriptor, or -1 when there is nothing. */
int shortcut_watch(int fuse);

/* Fill in a request that was read and not taken, and return its length, or 0. `size` is the same each time. */
ssize_t shortcut_leaves(void *buffer, size_t size);

/* Say whether a request that was just read is not to be answered by anybody else. */
int shortcut_takes(const struct in_header *request, size_t length);

/* XXH3-64 for processors that have AVX2. */
uint64_t checksum_avx2(const void *bytes, size_t length);

#endif
