/*
 * In front of libfuse: what pyfuse3 has no words for.
 *
 * pyfuse3 calls libfuse by name. This library is loaded before it, for all to see (__init__.py), so three of those names
 * lead here:
 *
 *     fuse_session_mount   mounts, and then has libfuse read and write the FUSE descriptor through us; a mount that was
 *                          served before has shaken hands already, and the kernel will not do so again: libfuse is
 *                          handed the INIT that was answered then, and its answer goes nowhere
 *     fuse_session_fd      what pyfuse3 waits at for requests; see shortcut.c
 *     fuse_reply_open      hands a file over to the kernel, when Python has said so just before
 *
 * From then on every request and every reply passes `read_request` and `write_reply`. The one reply that is changed is
 * that to INIT: it asks for passthrough, which libfuse knows only from 3.17 on.
 *
 * All of it is called from one thread, that of pyfuse3's loop, but for write_reply, which after INIT changes only what
 * Python's lock guards.
 *
 * Source: libfuse 3.14, fuse_lowlevel.h (fuse_session_custom_io); close_range(2); Linux 6.9, include/uapi/linux/fuse.h,
 * whose structures are written down here, since a host's headers may be older than its kernel.
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35
#define PY_SSIZE_T_CLEAN

#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shortcut.h"

#define INIT 26
#define INIT_MOST 256 /* bytes of an INIT request that are kept; Linux 6.18 sends 104 */
#define NOTIFY_RESEND 7
#define RESENT (1ull << 63) /* in `unique`: the kernel has sent it before, to whoever served the mount then */
#define INIT_EXT (1u << 30)         /* in flags: flags2 counts */
#define PASSTHROUGH2 (1u << (37 - 32)) /* in flags2 */
#define OPEN_PASSTHROUGH (1u << 7)
#define STACK_DEPTH 1 /* the store's file system lies directly on its disk; an overlay may lie on our mount */

#define MUCH (64 * 1024) /* bytes; less is copied while the lock changes hands */

char lazyfs_front_stand_in[1]; /* what Python replies with for what it has named with lazyfs_front_reply_with */

struct init_in {
	struct in_header header;
	uint32_t major, minor, max_readahead, flags, flags2;
};

struct init_out {
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2, max_stack_depth;
};

struct open_out {
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};

static int wanted;           /* whether INIT shall ask for passthrough */
static int agreed;           /* whether it has, and the kernel had offered it */
static int descriptor = -1;  /* the FUSE descriptor */
static int watched = -1;     /* what to wait for requests at in its place, if anything */
static uint64_t init_unique; /* of the INIT that is not answered yet */
static char greeting[INIT_MOST]; /* the INIT request, as the kernel has sent it once */
static size_t greeting_length;
static int served_before;    /* whether it was answered by another process */
static uint64_t last_request; /* what was read last, as the kernel counts them */
uint32_t lazyfs_front_last_pid; /* of the process whose request that is, 0 when the kernel does not say */
static uint64_t next_handle; /* what the next open is answered with, when `next_backing` is not 0 */
static int32_t next_backing;
static Py_buffer pieces[MOST_PIECES]; /* what the next reply has in the place of the stand-in */
static Py_ssize_t piece_count;
static struct {
	struct reply reply;
	Py_buffer pieces[MOST_PIECES]; /* what it is made of; none exactly when this is free */
} handed_over[MOST_REPLIES]; /* replies that shortcut.c has been given */
static int (*libfuse_reply_open)(fuse_req_t, const struct fuse_file_info *);

/* Return libfuse's own function. Our names come first in every other search, so libfuse is asked by its file. */
static void *of_libfuse(const char *name)
{
	Dl_info libfuse;
	void *handle;

	if (!dladdr((void *)fuse_session_exited, &libfuse))
		return NULL;
	handle = dlopen(libfuse.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
	return handle ? dlsym(handle, name) : NULL;
}

static void greeted(const struct init_in *request)
{
	init_unique = request->header.unique;
	agreed = wanted && (request->flags & INIT_EXT) && (request->flags2 & PASSTHROUGH2);
}

/* Read a request that is libfuse's to answer: those that the shortcut takes never get there. */
static ssize_t read_request(int fd, void *buffer, size_t size, void *userdata)
{
	const struct init_in *request = buffer;
	ssize_t got = shortcut_leaves(buffer, size);

	(void)userdata;
	if (!got) {
		do
			got = read(fd, buffer, size);
		while (got > 0 && shortcut_takes(&request->header, got));
	}
	/*
	 * A request may be gone between the poll that saw it and this read: its reader was interrupted. The descriptor
	 * does not block, and pyfuse3 looks again after EINTR; after EAGAIN it would give up.
	 */
	if (got < 0 && errno == EAGAIN)
		errno = EINTR;
	if (got >= (ssize_t)sizeof(request->header)) {
		last_request = request->header.unique & ~RESENT;
		lazyfs_front_last_pid = request->header.pid;
	}
	if (got >= (ssize_t)sizeof(*request) && got <= INIT_MOST && request->header.opcode == INIT) {
		greeting_length = got;
		memcpy(greeting, buffer, got);
		greeted(request);
	}
	return got;
}

/*
 * Have this thread keep only the FUSE descriptor, if it is one of those that tell the kernel something: that may wait,
 * uninterruptibly, for requests that only the next daemon will answer. It would keep all files of the dead one open, and
 * with them the locks on blocks for which that next daemon waits in turn.
 */
static void part_from_files(void)
{
	static __thread int apart;

	if (apart || gettid() == getpid())
		return;
	apart = 1;
	if (!close_range(descriptor + 1, ~0U, CLOSE_RANGE_UNSHARE) && descriptor)
		close_range(0, descriptor - 1, 0);
}

/*
 * Write, and let Python's other threads run meanwhile when it is much: pyfuse3 holds the interpreter's lock while it
 * replies, and to copy a MiB into the kernel takes up to a millisecond, for which every thread that receives blocks, or
 * puts them into the store, would stand still.
 */
static ssize_t write_beside(int fd, const struct iovec *iov, int count, size_t length)
{
	PyThreadState *state;
	ssize_t written;
	int error;

	if (length < MUCH || !PyGILState_Check())
		return writev(fd, iov, count);
	state = PyEval_SaveThread();
	written = writev(fd, iov, count);
	error = errno;
	PyEval_RestoreThread(state);
	errno = error;
	return written;
}

static void drop_pieces(void)
{
	while (piece_count)
		PyBuffer_Release(&pieces[--piece_count]);
}

/* Let go of what replies were made of that have been written; Python holds its lock. */
static void drop_what_is_written(void)
{
	for (size_t n = 0; n < MOST_REPLIES; n++)
		if (handed_over[n].reply.count && __atomic_load_n(&handed_over[n].reply.written, __ATOMIC_ACQUIRE))
			while (handed_over[n].reply.count)
				PyBuffer_Release(&handed_over[n].pieces[--handed_over[n].reply.count]);
}

/* Have a reply of the pieces written by another thread; 0 when that cannot be. */
static int hand_over_reply(const struct out_header *header)
{
	size_t n = 0;
	struct reply *reply;

	while (n < MOST_REPLIES && handed_over[n].reply.count)
		n++;
	if (n == MOST_REPLIES)
		return 0;
	reply = &handed_over[n].reply;
	reply->header = *header;
	reply->written = 0;
	for (Py_ssize_t m = 0; m < piece_count; m++)
		reply->pieces[m] = (struct iovec){ pieces[m].buf, pieces[m].len };
	reply->count = piece_count;
	if (!shortcut_writes(reply)) {
		reply->count = 0;
		return 0;
	}
	memcpy(handed_over[n].pieces, pieces, piece_count * sizeof(*pieces));
	piece_count = 0;
	return 1;
}

/* Reply with the pieces that Python has named, where its own reply is only what stands for them. */
static ssize_t write_pieces(int fd, struct out_header *header)
{
	struct iovec iov[1 + MOST_PIECES] = { { header, sizeof(*header) } };
	ssize_t written;

	header->len = sizeof(*header);
	for (Py_ssize_t n = 0; n < piece_count; n++) {
		iov[n + 1] = (struct iovec){ pieces[n].buf, pieces[n].len };
		header->len += pieces[n].len;
	}
	if (header->len >= MUCH && hand_over_reply(header))
		return header->len;
	written = write_beside(fd, iov, 1 + piece_count, header->len);
	drop_pieces();
	return written;
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	struct out_header *header = iov[0].iov_base;

	(void)userdata;
	if (PyGILState_Check())
		drop_what_is_written();
	if (!header->unique) /* no reply */
		part_from_files();
	if (init_unique && header->unique == init_unique) {
		init_unique = 0;
		if (agreed && count == 2 && !header->error && iov[1].iov_len >= sizeof(struct init_out)) {
			struct init_out *reply = iov[1].iov_base;

			reply->flags |= INIT_EXT;
			reply->flags2 |= PASSTHROUGH2;
			reply->max_stack_depth = STACK_DEPTH;
		} else {
			agreed = 0;
		}
		if (served_before)
			return header->len;
	}
	if (count == 2 && iov[1].iov_base == lazyfs_front_stand_in)
		return write_pieces(fd, header);
	return write_beside(fd, iov, count, header->len);
}

/*
 * Go on with a mount that another process has served: shake hands with libfuse alone, and have the kernel send again
 * what that process has read and not answered. A kernel before 6.9 cannot; then those requests are never answered.
 */
static int take_over(struct fuse_session *session)
{
	struct fuse_buf request = { .size = greeting_length, .mem = greeting };
	struct out_header resend = { .len = sizeof(resend), .error = NOTIFY_RESEND };

	greeted((const struct init_in *)greeting);
	fuse_session_process_buf(session, &request);
	return write(descriptor, &resend, sizeof(resend)) == sizeof(resend) ? 0 : -1;
}

int fuse_session_mount(struct fuse_session *session, const char *mountpoint)
{
	static const struct fuse_custom_io io = { .writev = write_reply, .read = read_request };
	int (*mount)(struct fuse_session *, const char *) = of_libfuse("fuse_session_mount");
	int (*own_fd)(struct fuse_session *) = of_libfuse("fuse_session_fd");
	int result;

	libfuse_reply_open = of_libfuse("fuse_reply_open");
	if (!mount || !own_fd || !libfuse_reply_open) {
		fprintf(stderr, "this libfuse does not fit lazyfs's C part: install lazyfs again\n");
		return -1;
	}
	result = mount(session, mountpoint);
	if (result)
		return result;
	descriptor = own_fd(session);
	result = fuse_session_custom_io(session, &io, descriptor);
	if (!result)
		result = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
	if (!result && served_before)
		result = take_over(session);
	if (result)
		fuse_session_unmount(session);
	else
		watched = shortcut_watch(descriptor);
	return result;
}

int fuse_session_fd(struct fuse_session *session)
{
	(void)session;
	return watched < 0 ? descriptor : watched;
}

int fuse_reply_open(fuse_req_t request, const struct fuse_file_info *info)
{
	struct open_out reply = { .fh = info->fh, .open_flags = OPEN_PASSTHROUGH, .backing_id = next_backing };

	if (next_backing && info->fh == next_handle) {
		next_backing = 0;
		return fuse_reply_buf(request, (const char *)&reply, sizeof(reply));
	}
	return libfuse_reply_open(request, info);
}

/* What Python calls. */

void lazyfs_front_want(int passthrough)
{
	wanted = passthrough;
}

int lazyfs_front_agreed(void)
{
	return agreed;
}

const char *lazyfs_front_greeting(size_t *length)
{
	*length = greeting_length;
	return greeting;
}

int lazyfs_front_go_on(const char *request, size_t length)
{
	if (length < sizeof(struct init_in) || length > INIT_MOST)
		return -1;
	memcpy(greeting, request, length);
	greeting_length = length;
	served_before = 1;
	return 0;
}

uint64_t lazyfs_front_last_request(void)
{
	return last_request;
}

void lazyfs_front_hand_over(uint64_t handle, int32_t backing)
{
	next_handle = handle;
	next_backing = backing;
}

/* Take what the next reply is made of, a list of buffers; Python holds its lock. Returns whether there is room. */
int lazyfs_front_reply_with(PyObject *list)
{
	Py_ssize_t count = PyList_GET_SIZE(list);

	drop_pieces();
	if (count > MOST_PIECES)
		return 0;
	for (; piece_count < count; piece_count++)
		if (PyObject_GetBuffer(PyList_GET_ITEM(list, piece_count), &pieces[piece_count], PyBUF_SIMPLE))
			break;
	if (piece_count == count)
		return 1;
	PyErr_Clear();
	drop_pieces();
	return 0;
}

/* Answer a request that libfuse has not seen, with the pieces of a list, or with an errno; Python holds its lock. */
void lazyfs_front_answer(uint64_t unique, int error, PyObject *list)
{
	struct out_header header = { .error = -error, .unique = unique };

	if (!error && !lazyfs_front_reply_with(list))
		header.error = -EIO;
	if (write_pieces(descriptor, &header) < 0)
		return; /* nobody wants it any more */
}
