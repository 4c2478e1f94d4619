/* What front.c asks of shortcut.c, and the head of every request of the kernel's. */
#ifndef LAZYFS_SHORTCUT_H
#define LAZYFS_SHORTCUT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define MOST_PIECES 64  /* of a reply: a MiB, the largest read, has no more of blocks of 16 KiB */
#define MOST_REPLIES 4  /* that are not written yet; what is beyond that is written at once */

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

/* A reply whose bytes stay where they are until it is `written`, which is read and set atomically. */
struct reply {
	struct out_header header;
	struct iovec pieces[MOST_PIECES];
	unsigned count;
	int written;
};

/* Have a reply, one of MOST_REPLIES, written by one of our threads; returns 0 when there are none. */
int shortcut_writes(struct reply *reply);

/* XXH3-64 for processors that have AVX2. */
uint64_t checksum_avx2(const void *bytes, size_t length);

#endif
