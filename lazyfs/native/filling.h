/*
 * Fills blocks without the interpreter's lock: received into memory, hashed, and put in place as soon as they are whole.
 *
 * In Python that is a dozen calls for each MiB, and for each the lock is given up and taken back, while the event loop
 * wants it too. Here it is one call for up to 4 MiB; of what comes meanwhile the loop hears through an eventfd, the
 * bell, and looks at a counter.
 *
 * The buffers are exported while it lasts, so nobody can free or resize them, whatever becomes of the task that waits.
 *
 * Source: eventfd(2), pwritev2(2); XXH3-64 with seed 0, records.py.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define XXH_INLINE_ALL

#include <Python.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define MOST_BLOCKS 64 /* 4 MiB of the smallest */

/* Bytes that are received in one go: in the CPU's cache until they are hashed. Records come one by one all the same. */
#define AT_ONCE (1024 * 1024)
#define BLOCK_BY_BLOCK 1

/* What is shared with the loop, which only reads it; all but `whole` once the call is over. */
struct progress {
	uint64_t filled;   /* bytes that have come, from the start of the first block */
	uint64_t whole;    /* blocks of which all has */
	uint64_t written;  /* of these, so many are in place */
	uint64_t spent;    /* nanoseconds that this took */
	uint64_t checksums[MOST_BLOCKS]; /* of those */
};

/* Where blocks belong: one after the other from `offset`, so many of them at the most. */
struct place {
	int fd;
	off_t offset;
	uint64_t room;
};

/* Who writes to the same file waits in the kernel too, but spinning. */
static pthread_mutex_t turns[64] = { [0 ... 63] = PTHREAD_MUTEX_INITIALIZER };

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static uint64_t checksum(const Py_buffer *block)
{
	uint64_t hash = XXH3_64bits(block->buf, block->len);

	return hash ? hash : 1; /* 0 says that a block is missing */
}

static void ring(int bell)
{
	const uint64_t one = 1;

	if (bell >= 0 && write(bell, &one, sizeof(one)) < 0)
		return; /* it has been rung 2^64 - 2 times and not been heard: then it will be */
}

/* Put whole blocks in place, as far as there is room; where the disk takes one no more, it is not asked again. */
static void put(Py_buffer *blocks, struct place *place, struct progress *progress)
{
	int64_t began = now();
	uint64_t stop = progress->whole < place->room ? progress->whole : place->room;
	struct iovec iov[MOST_BLOCKS], *rest = iov;
	int count = 0;

	for (uint64_t n = progress->written; n < stop; n++) {
		progress->checksums[n] = checksum(&blocks[n]);
		iov[count++] = (struct iovec){ blocks[n].buf, blocks[n].len };
	}
	if (!count)
		return;
	pthread_mutex_lock(&turns[place->fd % 64]);
	while (count) {
		ssize_t written = pwritev2(place->fd, rest, count, place->offset, 0);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0) {
			place->room = progress->written;
			break;
		}
		place->offset += written;
		for (; count && (size_t)written >= rest->iov_len; rest++, count--, progress->written++)
			written -= rest->iov_len;
		if (count)
			*rest = (struct iovec){ (char *)rest->iov_base + written, rest->iov_len - written };
	}
	pthread_mutex_unlock(&turns[place->fd % 64]);
	progress->spent += now() - began;
}

/*
 * Receives into all of a message, and returns how much came: less when there was no more in time, 0 at the end, -1 with
 * errno for what is wrong.
 */
typedef ssize_t take(void *peer, struct msghdr *message, int64_t until);

/* Fill blocks with up to `most` bytes, until `until`; return an errno: 0 when they are full, or at the end. */
static int fill(take *take, void *peer, size_t at_once, Py_buffer *blocks, int count, size_t most, int64_t until, int bell,
		struct place *place, struct progress *progress)
{
	size_t within = progress->filled; /* bytes that have come of the first block that is not whole */
	int whole = 0;

	while (most && whole < count) {
		struct iovec iov[MOST_BLOCKS];
		struct msghdr message = { .msg_iov = iov };
		size_t asked = 0;
		ssize_t came;

		for (int n = whole; n < count && asked < most && asked < at_once; n++) {
			size_t from = n == whole ? within : 0, length = blocks[n].len - from;

			if (length > most - asked)
				length = most - asked;
			iov[message.msg_iovlen++] = (struct iovec){ (char *)blocks[n].buf + from, length };
			asked += length;
		}
		came = take(peer, &message, until);
		if (came <= 0)
			return came ? errno : 0;
		most -= came;
		for (within += came; whole < count && within >= (size_t)blocks[whole].len; whole++)
			within -= blocks[whole].len;
		progress->filled += came;
		if ((uint64_t)whole > progress->whole) {
			__atomic_store_n(&progress->whole, whole, __ATOMIC_RELEASE);
			ring(bell);
			put(blocks, place, progress);
		}
		if ((size_t)came < asked || now() >= until)
			return most && whole < count ? EAGAIN : 0;
	}
	return 0;
}

/*
 * Do what Python asks for with: the blocks, a list of buffers; bytes at the most; seconds; the bell or -1; where they
 * belong, a file, an offset and for how many of them there is room; and what is shared with the loop.
 */
static PyObject *receive_from(take *take, void *peer, size_t at_once, PyObject *args)
{
	Py_buffer blocks[MOST_BLOCKS], shared;
	PyObject *list, *result = NULL;
	struct progress *progress;
	struct place place;
	double seconds;
	Py_ssize_t most;
	int bell, count, error;

	if (!PyArg_ParseTuple(args, "O!ndi(iLK)w*", &PyList_Type, &list, &most, &seconds, &bell, &place.fd, &place.offset,
			&place.room, &shared))
		return NULL;
	progress = shared.buf;
	for (count = 0; count < MOST_BLOCKS && count < PyList_GET_SIZE(list); count++)
		if (PyObject_GetBuffer(PyList_GET_ITEM(list, count), &blocks[count], PyBUF_WRITABLE))
			goto released;
	if (shared.len < (Py_ssize_t)sizeof(*progress) || !count || progress->filled >= (uint64_t)blocks[0].len) {
		PyErr_SetString(PyExc_ValueError, "no room");
		goto released;
	}
	Py_BEGIN_ALLOW_THREADS
	error = fill(take, peer, at_once, blocks, count, most, now() + (int64_t)(seconds * 1e9), bell, &place,
			progress);
	Py_END_ALLOW_THREADS
	result = PyLong_FromLong(error);
released:
	while (count)
		PyBuffer_Release(&blocks[--count]);
	PyBuffer_Release(&shared);
	return result;
}
