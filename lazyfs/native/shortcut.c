/*
 * Large reads of what is in the store, answered by two threads that know no Python.
 *
 *     FUSE's descriptor ─┬─ the event loop (front.c) ─┬─ all else ─▶ libfuse, Python
 *                        │                            └─ READ of a file that we know, whose blocks are in the map,
 *                        │                               with more behind them ──┐
 *                        └─ one of us, while there are such reads ───────────────┤  the others it leaves to the event loop
 *                                                                                ▼
 *                       the blocks are read, and each is checked against its entry ─┬─ right: answered, then told
 *                                                                                   └─ else: handed back to Python
 *
 * To copy a MiB to the kernel takes up to half a millisecond, to read it from the page cache and to check it a quarter,
 * and for that time the event loop would answer nobody. The loop takes another tenth to come to a request at all, so
 * who has answered a read waits for the next one in the loop's place.
 *
 * Large replies that Python has made, of blocks in memory, are written by the same threads, for the same reason.
 *
 * What we do is what store/blobfile.py does when it reads a run of blocks, and no more, so its invariants hold:
 *
 *  - Bytes leave only when they match the entries that the map had when the read came (its I2). So a block that is
 *    evicted meanwhile, or torn, or damaged, is never given out; such a read is handed back.
 *  - We wait for no disk and no origin. What is not in the page cache is handed back.
 *  - A read is taken only when `AHEAD` more is in the store behind it: nearer to what is missing it is the event loop
 *    that must hear of each read, to fetch ahead of it.
 *  - What we have answered is told within `SOON`, some reads at a time, so as not to wake the event loop for each.
 *  - A file's descriptors are ours, and are closed when it is withdrawn and the last read of it is over.
 *  - Of reads that wait for us, and of what waits to be heard, there is no more than there is room for; what is beyond
 *    that is not taken.
 *
 * The kernel sends requests that a killed process has read and not answered to the next one again. What it no longer
 * wants answered (an interrupted reader, a mount that has gone) it refuses, which is no fault.
 *
 * Locks: `mutex` guards all that is static here and changes once the threads run, and the fields of files.
 *
 * Source: Linux 6.9, fs/fuse/dev.c; epoll_ctl(2), preadv2(2).
 */
#define _GNU_SOURCE
#define XXH_INLINE_ALL

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "shortcut.h"

#define READ 15
#define INTERRUPT 36
#define LEAST (128 * 1024)     /* bytes of a read; less is not worth to wake a thread for */
#define ROOM (2 * 1024 * 1024) /* bytes of the blocks of one read; the kernel asks for no more than half of it */
#define MOST_BLOCKS (ROOM / (64 * 1024))
#define AHEAD (16 * 1024 * 1024) /* as much as is mostly fetched ahead: readahead.py, USUAL */
#define MOST_ENTRIES (MOST_BLOCKS + AHEAD / (64 * 1024))
#define MOST_WAITING 4
#define MOST_FILES 16
#define MOST_TOLD 64
#define THREADS 2
#define SOON 5000000 /* nanoseconds */
#define PATIENCE 20  /* milliseconds for which one of us waits in the event loop's place */
#define OF_INODE (~(1ull << 63)) /* in a handle, see DIRECT in fuse.py */

struct read_in {
	struct in_header header;
	uint64_t handle, offset;
	uint32_t size, flags;
};

struct file {
	uint64_t handle; /* 0: there is none */
	uint64_t size;
	uint32_t block_size;
	uint32_t map_start; /* byte of the map's first entry */
	int data, map;
	int flags; /* RWF_NOWAIT, unless its file system knows none: then it has all in memory */
	int reads; /* that were taken and are not over */
	int withdrawn;
};

struct told {
	uint64_t unique, handle, offset;
	uint32_t size, answered;
};

/* A read that was taken. */
struct reading {
	struct file *file;
	struct told what;
	uint64_t start; /* byte at which its first block begins */
	size_t length;  /* bytes of its blocks */
	uint64_t entries[MOST_BLOCKS];
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_t threads[THREADS];
static unsigned running;
static int ending;
static struct file files[MOST_FILES];

static struct reading waiting[MOST_WAITING]; /* reads that the event loop has taken for us, the oldest first */
static unsigned waiting_count;

static struct reply *replies[MOST_REPLIES]; /* that are to be written, the oldest first */
static unsigned reply_count;

static struct told told[MOST_TOLD];
static unsigned told_count;
static unsigned to_tell; /* reads that were taken and not told yet; with what is told no more than MOST_TOLD */
static int bell = -1;    /* a timer that runs out when Python is to hear of what is told */

static int device = -1;  /* FUSE's descriptor */
static int watched = -1; /* what the event loop watches: `left_bell`, and the device while it is `watching` that */
static int watching = 1;
static int more;         /* whether the next request is likely to be for us, too */
static int listening;    /* whether one of us waits for it: then `left` is its own */
static char *left;       /* a request that it leaves to the event loop, once that has read one itself */
static size_t left_length, left_room;
static int left_bell = -1; /* an eventfd: there is such a request */

static struct file *find(uint64_t handle)
{
	for (struct file *file = files; file < files + MOST_FILES; file++)
		if (file->handle == handle && !file->withdrawn)
			return file;
	return NULL;
}

static void close_file(struct file *file)
{
	close(file->data);
	close(file->map);
	file->handle = 0;
}

/* Read all of it, without waiting for a disk; 0 when that cannot be. */
static int read_all(struct file *file, int fd, void *buffer, size_t length, uint64_t offset)
{
	struct iovec iov = { buffer, length };
	ssize_t got = preadv2(fd, &iov, 1, offset, file->flags);

	if (got < 0 && errno == EOPNOTSUPP) {
		file->flags = 0; /* whoever else sets it meanwhile sets it to the same */
		got = preadv2(fd, &iov, 1, offset, 0);
	}
	return got == (ssize_t)length;
}

/* Fill in which blocks a read is made of, and their entries; 0 when one of them, or of those behind, is missing. */
static int look(struct reading *reading)
{
	struct file *file = reading->file;
	uint64_t offset = reading->what.offset, size = reading->what.size, block_size = file->block_size;
	uint64_t total = (file->size + block_size - 1) / block_size;
	uint64_t first = offset / block_size, stop = (offset + size + block_size - 1) / block_size;
	uint64_t behind = stop + AHEAD / block_size;
	uint64_t entries[MOST_ENTRIES];

	if (offset >= file->size)
		return 0;
	stop = stop < total ? stop : total;
	behind = behind < total ? behind : total;
	reading->start = first * block_size;
	reading->length = (stop < total ? stop * block_size : file->size) - reading->start;
	if (reading->length > ROOM || reading->length > 2 * size)
		return 0;
	if (!read_all(file, file->map, entries, (behind - first) * sizeof(*entries),
		      file->map_start + first * sizeof(*entries)))
		return 0;
	for (uint64_t n = 0; n < behind - first; n++)
		if (!entries[n])
			return 0;
	memcpy(reading->entries, entries, (stop - first) * sizeof(*entries));
	return 1;
}

/* Take a request, if it is a read that we can answer by all that the map says. */
static int take(struct reading *reading, const struct in_header *request, size_t length)
{
	const struct read_in *in = (const struct read_in *)request;

	if (request->opcode != READ || length < sizeof(*in) || in->size < LEAST || told_count + to_tell == MOST_TOLD)
		return 0;
	reading->what = (struct told){ request->unique, in->handle & OF_INODE, in->offset, in->size, 0 };
	reading->file = find(reading->what.handle);
	if (!reading->file || !look(reading))
		return 0;
	reading->file->reads++;
	to_tell++;
	more = 1;
	return 1;
}

static uint64_t checksum(const void *bytes, size_t length)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return checksum_avx2(bytes, length);
#endif
	return XXH3_64bits(bytes, length);
}

/* Read the blocks, and check each while it is in the processor's cache; 0 when one is not to be had, or not right. */
static int read_blocks(const struct reading *reading, char *buffer)
{
	struct file *file = reading->file;

	for (size_t at = 0, block = 0; at < reading->length; at += file->block_size, block++) {
		size_t length = reading->length - at < file->block_size ? reading->length - at : file->block_size;
		uint64_t sum;

		if (!read_all(file, file->data, buffer + at, length, reading->start + at))
			return 0;
		sum = checksum(buffer + at, length);
		if ((sum ? sum : 1) != le64toh(reading->entries[block]))
			return 0;
	}
	return 1;
}

static void answer(const struct reading *reading, char *buffer)
{
	size_t skipped = reading->what.offset - reading->start, length = reading->length - skipped;
	struct out_header header = { .unique = reading->what.unique };
	struct iovec iov[] = { { &header, sizeof(header) }, { buffer + skipped, length } };

	if (length > reading->what.size)
		iov[1].iov_len = reading->what.size;
	header.len = sizeof(header) + iov[1].iov_len;
	(void)!writev(device, iov, 2); /* refused when nobody wants it any more */
}

/* Write the oldest reply. Locks: mutex, held; not meanwhile. */
static void write_one(void)
{
	struct reply *reply = replies[0];
	struct iovec iov[1 + MOST_PIECES] = { { &reply->header, sizeof(reply->header) } };

	memmove(replies, replies + 1, --reply_count * sizeof(*replies));
	pthread_mutex_unlock(&mutex);
	memcpy(iov + 1, reply->pieces, reply->count * sizeof(*iov));
	(void)!writev(device, iov, 1 + reply->count);
	__atomic_store_n(&reply->written, 1, __ATOMIC_RELEASE);
	pthread_mutex_lock(&mutex);
}

/* Have Python hear of a read: at once when it is handed back. */
static void tell(const struct reading *reading, int answered)
{
	struct itimerspec soon = { .it_value.tv_nsec = answered ? SOON : 1 };

	to_tell--;
	told[told_count] = reading->what;
	told[told_count].answered = answered;
	if (!told_count++ || !answered)
		timerfd_settime(bell, 0, &soon, NULL);
}

/* See a read to its end. Locks: mutex, held; not meanwhile. */
static void see_to(const struct reading *reading, char *buffer)
{
	int right;

	pthread_mutex_unlock(&mutex);
	right = read_blocks(reading, buffer);
	pthread_mutex_lock(&mutex);
	tell(reading, right); /* before its file can be closed, so that it is counted */
	pthread_mutex_unlock(&mutex);
	if (right)
		answer(reading, buffer);
	pthread_mutex_lock(&mutex);
	if (!--reading->file->reads && reading->file->withdrawn)
		close_file(reading->file);
}

/* Have the event loop watch the device, or not. */
static void set_watch(int on)
{
	struct epoll_event event = { .events = EPOLLIN };

	if (watching != on && !epoll_ctl(watched, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, device, &event))
		watching = on;
}

/*
 * Wait for a request in the event loop's place, for a moment, and return 1 when it was taken. While one of us sees to
 * it nobody waits for the next, as it will hardly come before this is answered; but when it is there already, the other
 * one of us is to have it. Locks: mutex, held; not while waiting.
 */
static int listen_for_one(struct reading *reading)
{
	struct pollfd from_device = { .fd = device, .events = POLLIN };
	const struct in_header *request = (const struct in_header *)left;
	ssize_t got = 0;

	listening = 1;
	set_watch(0);
	pthread_mutex_unlock(&mutex);
	if (poll(&from_device, 1, PATIENCE) > 0)
		got = read(device, left, left_room);
	pthread_mutex_lock(&mutex);
	listening = 0;
	if (got > 0 && take(reading, request, got)) {
		if (poll(&from_device, 1, 0) > 0)
			pthread_cond_signal(&changed);
		return 1;
	}
	if (got > 0 && request->opcode != INTERRUPT) {
		left_length = got;
		eventfd_write(left_bell, 1);
	}
	more = 0;
	set_watch(1);
	return 0;
}

static void *work(void *buffer)
{
	struct reading reading;

	pthread_mutex_lock(&mutex);
	for (;;) {
		if (waiting_count) {
			reading = waiting[0];
			memmove(waiting, waiting + 1, --waiting_count * sizeof(*waiting));
			see_to(&reading, buffer);
		} else if (reply_count) {
			write_one();
		} else if (ending) {
			break;
		} else if (more && !listening && left && !left_length) {
			if (listen_for_one(&reading))
				see_to(&reading, buffer);
		} else {
			pthread_cond_wait(&changed, &mutex);
		}
	}
	pthread_mutex_unlock(&mutex);
	free(buffer);
	return NULL;
}

/* What front.c calls. */

int shortcut_watch(int fuse)
{
	struct epoll_event event = { .events = EPOLLIN };

	device = fuse;
	left_bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	watched = epoll_create1(EPOLL_CLOEXEC);
	if (left_bell < 0 || watched < 0 || epoll_ctl(watched, EPOLL_CTL_ADD, left_bell, &event) ||
	    epoll_ctl(watched, EPOLL_CTL_ADD, fuse, &event))
		watched = -1;
	return watched;
}

ssize_t shortcut_leaves(void *buffer, size_t size)
{
	eventfd_t times;
	size_t length;

	pthread_mutex_lock(&mutex);
	if (!left && (left = malloc(size)))
		left_room = size;
	length = left_length;
	if (length && !eventfd_read(left_bell, &times)) {
		memcpy(buffer, left, length);
		left_length = 0;
	}
	pthread_mutex_unlock(&mutex);
	return length;
}

int shortcut_takes(const struct in_header *request, size_t length)
{
	int taken;

	if (request->opcode == INTERRUPT)
		return 1; /* nobody asks to be interrupted, and libfuse holds on to those of reads that it has not seen */
	pthread_mutex_lock(&mutex);
	taken = running && waiting_count < MOST_WAITING && take(&waiting[waiting_count], request, length);
	if (taken) {
		waiting_count++;
		pthread_cond_signal(&changed);
	}
	pthread_mutex_unlock(&mutex);
	return taken;
}

int shortcut_writes(struct reply *reply)
{
	int taken;

	pthread_mutex_lock(&mutex);
	taken = running > 0;
	if (taken) {
		replies[reply_count++] = reply;
		pthread_cond_signal(&changed);
	}
	pthread_mutex_unlock(&mutex);
	return taken;
}

/* What Python calls. */

/* Begin to take reads. Returns a descriptor that is readable when something is told, or -1. */
int lazyfs_shortcut_begin(void)
{
	sigset_t all, before;
	void *buffer;

	if (watched < 0)
		return -1;
	bell = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (bell < 0)
		return -1;
	sigfillset(&all); /* signals are Python's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (running < THREADS && (buffer = malloc(ROOM)) && !pthread_create(&threads[running], NULL, work, buffer))
		pthread_setname_np(threads[running++], "shortcut");
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return bell;
}

/* Take no more, answer what was taken, write the replies that wait, and close all files. */
void lazyfs_shortcut_end(void)
{
	unsigned to_join = running;

	pthread_mutex_lock(&mutex);
	ending = 1;
	running = 0;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&mutex);
	while (to_join)
		pthread_join(threads[--to_join], NULL);
	for (struct file *file = files; file < files + MOST_FILES; file++)
		if (file->handle)
			close_file(file);
	close(bell);
}

/* Take the reads of a file from now on. Returns -1 when there is no room for it, in the table or among descriptors. */
int lazyfs_shortcut_offer(uint64_t handle, int data, int map, uint32_t map_start, uint64_t size, uint32_t block_size)
{
	int own_data = fcntl(data, F_DUPFD_CLOEXEC, 0), own_map = fcntl(map, F_DUPFD_CLOEXEC, 0);
	struct file *file = files;

	pthread_mutex_lock(&mutex);
	while (file < files + MOST_FILES && file->handle)
		file++;
	if (own_data >= 0 && own_map >= 0 && file < files + MOST_FILES) {
		*file = (struct file){ handle, size, block_size, map_start, own_data, own_map, RWF_NOWAIT, 0, 0 };
	} else {
		close(own_data);
		close(own_map);
		file = NULL;
	}
	pthread_mutex_unlock(&mutex);
	return file ? 0 : -1;
}

void lazyfs_shortcut_withdraw(uint64_t handle)
{
	struct file *file;

	pthread_mutex_lock(&mutex);
	file = find(handle);
	if (file && file->reads)
		file->withdrawn = 1;
	else if (file)
		close_file(file);
	pthread_mutex_unlock(&mutex);
}

/* Take what was told, at most `MOST_TOLD`, and return how much that is. */
unsigned lazyfs_shortcut_told(struct told *taken)
{
	uint64_t times;
	unsigned count;

	pthread_mutex_lock(&mutex);
	(void)!read(bell, &times, sizeof(times)); /* it may be wound up again: then there is something to hear now, too */
	count = told_count;
	memcpy(taken, told, count * sizeof(*told));
	told_count = 0;
	pthread_mutex_unlock(&mutex);
	return count;
}
