/*
 * A TLS connection as a client, whose bodies are received without the interpreter's lock (filling.h).
 *
 * The ssl module reads one record of 16 KiB in each call, in two reads of the socket, and gives the lock up and takes
 * it back for it. That is all that is different here: what is trusted, which versions and ciphers are allowed, and how
 * a certificate is looked at, is taken over from an SSLContext (origin/securing.py), and never less. The lock is not
 * held while OpenSSL works; one connection is never used by two threads at a time.
 *
 * Source: SSL_CTX_new(3), SSL_set1_host(3), SSL_read_ex(3), SSL_get_error(3), SSL_CTX_set_read_ahead(3).
 */
#include "filling.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

/*
 * Bytes that are read from the socket at a time: some records, without which each takes two reads. What is left of them
 * is moved to the front for the next: with 256 KiB that cost more CPU time than it saved (0.94 s/GiB, 0.68 with 64).
 */
#define READ_AHEAD (64 * 1024)

static PyObject *failure; /* Failure(SSL_get_error's, errno, reason, verify code, its words) */

struct context {
	PyObject_HEAD
	SSL_CTX *ctx;
};

struct connection {
	PyObject_HEAD
	SSL *ssl;
	int broken; /* what came was not as the peer had sent it, or could not be: that is for good */
};

static PyObject *fail(int error, int code, const char *reason, long verified)
{
	PyObject *args = Py_BuildValue("iisls", error, code, reason ? reason : "", verified,
		X509_verify_cert_error_string(verified));

	if (args)
		PyErr_SetObject(failure, args);
	Py_XDECREF(args);
	return NULL;
}

static PyObject *fail_for_good(void)
{
	return fail(SSL_ERROR_SSL, 0, ERR_reason_error_string(ERR_peek_last_error()), X509_V_OK);
}

static void context_dealloc(struct context *self)
{
	SSL_CTX_free(self->ctx);
	PyObject_Free(self);
}

/* Context(options, verify_flags, minimum_version, ciphers, security_level, ca_file or None) */
static PyObject *context_new(PyTypeObject *type, PyObject *args, PyObject *words)
{
	unsigned long long options;
	unsigned long flags;
	int version, level;
	const char *ciphers, *ca_file;
	struct context *self;
	SSL_CTX *ctx;

	(void)words;
	if (!PyArg_ParseTuple(args, "Kkisiz", &options, &flags, &version, &ciphers, &level, &ca_file))
		return NULL;
	ERR_clear_error();
	ctx = SSL_CTX_new(TLS_client_method());
	if (!ctx)
		return fail_for_good();
	SSL_CTX_set_options(ctx, options | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_security_level(ctx, level);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD);
	if (!X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), flags) ||
		!SSL_CTX_set_min_proto_version(ctx, version < TLS1_2_VERSION ? TLS1_2_VERSION : version) ||
		!SSL_CTX_set_cipher_list(ctx, ciphers) ||
		!(ca_file ? SSL_CTX_load_verify_file(ctx, ca_file) : SSL_CTX_set_default_verify_paths(ctx))) {
		fail_for_good();
		SSL_CTX_free(ctx);
		return NULL;
	}
	self = PyObject_New(struct context, type);
	if (!self) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	self->ctx = ctx;
	return (PyObject *)self;
}

static PyTypeObject context_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "lazyfs.native.tls.Context",
	.tp_basicsize = sizeof(struct context),
	.tp_dealloc = (destructor)context_dealloc,
	.tp_flags = Py_TPFLAGS_DEFAULT,
	.tp_new = context_new,
};

/* Have only a certificate pass that is for this name, or address. */
static int expect(SSL *ssl, const char *host)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
	if (!*host)
		return 0;
	if (X509_VERIFY_PARAM_set1_ip_asc(param, host))
		return 1;
	ERR_clear_error();
	return SSL_set1_host(ssl, host) && SSL_set_tlsext_host_name(ssl, host);
}

static void connection_dealloc(struct connection *self)
{
	SSL_free(self->ssl);
	PyObject_Free(self);
}

/* Connection(context, socket, host): the socket stays the caller's. */
static PyObject *connection_new(PyTypeObject *type, PyObject *args, PyObject *words)
{
	struct context *context;
	struct connection *self;
	const char *host;
	SSL *ssl;
	int fd;

	(void)words;
	if (!PyArg_ParseTuple(args, "O!is", &context_type, &context, &fd, &host))
		return NULL;
	ERR_clear_error();
	ssl = SSL_new(context->ctx);
	if (!ssl || !expect(ssl, host) || !SSL_set_fd(ssl, fd)) {
		fail_for_good();
		SSL_free(ssl);
		return NULL;
	}
	SSL_set_connect_state(ssl);
	self = PyObject_New(struct connection, type);
	if (!self) {
		SSL_free(ssl);
		return NULL;
	}
	self->ssl = ssl;
	self->broken = 0;
	return (PyObject *)self;
}

/*
 * What SSL_get_error says, without the interpreter's lock, and errno. An end without a word of the peer's is one as any
 * other, as it is to the ssl module: whether all has come, HTTP says.
 */
static int error_of(struct connection *self, int *code)
{
	int error = SSL_get_error(self->ssl, 0);

	*code = error == SSL_ERROR_SYSCALL ? errno : 0;
	if (error == SSL_ERROR_SYSCALL && !*code)
		return SSL_ERROR_ZERO_RETURN;
	if (error == SSL_ERROR_SSL && ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
		return SSL_ERROR_ZERO_RETURN;
	self->broken |= error == SSL_ERROR_SSL;
	return error;
}

static void begin(void)
{
	ERR_clear_error();
	errno = 0;
}

static PyObject *fail_with(struct connection *self, int error, int code)
{
	return fail(error, code, ERR_reason_error_string(ERR_peek_last_error()), SSL_get_verify_result(self->ssl));
}

static PyObject *handshake(struct connection *self, PyObject *args)
{
	int result, code = 0, error = SSL_ERROR_NONE;

	(void)args;
	Py_BEGIN_ALLOW_THREADS
	begin();
	result = SSL_do_handshake(self->ssl);
	if (result != 1)
		error = error_of(self, &code);
	Py_END_ALLOW_THREADS
	if (result != 1)
		return fail_with(self, error, code);
	/* It has been looked at by OpenSSL, as SSL_VERIFY_PEER says: an anonymous peer would be none. */
	if (SSL_get_verify_result(self->ssl) != X509_V_OK || !SSL_get0_peer_certificate(self->ssl))
		return fail(SSL_ERROR_SSL, 0, "no certificate", SSL_get_verify_result(self->ssl));
	Py_RETURN_NONE;
}

/* read_into(buffer): returns how many bytes came; 0 at the end */
static PyObject *read_into(struct connection *self, PyObject *args)
{
	int result, code = 0, error = SSL_ERROR_NONE;
	size_t came = 0;
	Py_buffer buffer;

	if (!PyArg_ParseTuple(args, "w*", &buffer))
		return NULL;
	if (self->broken) {
		PyBuffer_Release(&buffer);
		return fail(SSL_ERROR_SSL, 0, "the connection is broken", X509_V_OK);
	}
	Py_BEGIN_ALLOW_THREADS
	begin();
	result = SSL_read_ex(self->ssl, buffer.buf, buffer.len, &came);
	if (!result)
		error = error_of(self, &code);
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&buffer);
	if (!result && error != SSL_ERROR_ZERO_RETURN)
		return fail_with(self, error, code);
	return PyLong_FromSize_t(came);
}

/* write(content): returns how many bytes were taken */
static PyObject *write_from(struct connection *self, PyObject *args)
{
	int result, code = 0, error = SSL_ERROR_NONE;
	size_t taken = 0;
	Py_buffer buffer;

	if (!PyArg_ParseTuple(args, "y*", &buffer))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	begin();
	result = SSL_write_ex(self->ssl, buffer.buf, buffer.len, &taken);
	if (!result)
		error = error_of(self, &code);
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&buffer);
	return result ? PyLong_FromSize_t(taken) : fail_with(self, error, code);
}

static PyObject *pending(struct connection *self, PyObject *args)
{
	(void)args;
	return PyBool_FromLong(SSL_has_pending(self->ssl));
}

static ssize_t take_records(void *peer, struct msghdr *message, int64_t until)
{
	struct connection *self = peer;
	ssize_t count = 0;

	for (size_t n = 0; n < message->msg_iovlen; n++) {
		struct iovec rest = message->msg_iov[n];

		while (rest.iov_len) {
			int error, code;
			size_t came;

			if (self->broken) {
				errno = EPROTO;
				return count ? count : -1; /* what has come before it was right */
			}
			begin();
			if (!SSL_read_ex(self->ssl, rest.iov_base, rest.iov_len, &came)) {
				error = error_of(self, &code);
				if (self->broken)
					continue;
				if (count || error == SSL_ERROR_ZERO_RETURN)
					return count;
				errno = error == SSL_ERROR_SYSCALL ? code : EAGAIN;
				return -1;
			}
			count += came;
			rest.iov_base = (char *)rest.iov_base + came;
			rest.iov_len -= came;
			if (now() >= until)
				return count;
		}
	}
	return count;
}

/* receive(...): as `receive_from`. Returns an errno: 0 when the blocks are full, or at the end. */
static PyObject *receive(struct connection *self, PyObject *args)
{
	return receive_from(take_records, self, BLOCK_BY_BLOCK, args);
}

static PyMethodDef connection_methods[] = {
	{ "handshake", (PyCFunction)handshake, METH_NOARGS, NULL },
	{ "read_into", (PyCFunction)read_into, METH_VARARGS, NULL },
	{ "write", (PyCFunction)write_from, METH_VARARGS, NULL },
	{ "pending", (PyCFunction)pending, METH_NOARGS, NULL },
	{ "receive", (PyCFunction)receive, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static PyTypeObject connection_type = {
	PyVarObject_HEAD_INIT(NULL, 0)
	.tp_name = "lazyfs.native.tls.Connection",
	.tp_basicsize = sizeof(struct connection),
	.tp_dealloc = (destructor)connection_dealloc,
	.tp_flags = Py_TPFLAGS_DEFAULT,
	.tp_methods = connection_methods,
	.tp_new = connection_new,
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, .m_name = "tls", .m_size = -1 };

PyMODINIT_FUNC PyInit_tls(void)
{
	PyObject *made = PyModule_Create(&module);

	if (!made)
		return NULL;
	failure = PyErr_NewException("lazyfs.native.tls.Failure", NULL, NULL);
	if (failure && !PyModule_AddObjectRef(made, "Failure", failure) && !PyModule_AddType(made, &context_type) &&
		!PyModule_AddType(made, &connection_type))
		return made;
	Py_DECREF(made);
	return NULL;
}
