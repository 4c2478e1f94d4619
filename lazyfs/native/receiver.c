/*
 * Receives blocks from a socket (filling.h).
 *
 * Source: recv(2); socket(7), SO_RCVTIMEO.
 */
#include "filling.h"

static ssize_t take_bytes(void *peer, struct msghdr *message, int64_t until)
{
	ssize_t came;

	(void)until; /* the socket has a time-out */
	do
		came = recvmsg(*(int *)peer, message, MSG_WAITALL);
	while (came < 0 && errno == EINTR);
	return came;
}

/* receive(socket, ...): the rest as `receive_from`. Returns an errno: 0 when the blocks are full, or at the end. */
static PyObject *receive(PyObject *module, PyObject *args)
{
	PyObject *rest = PyTuple_GetSlice(args, 1, PyTuple_GET_SIZE(args)), *result = NULL;
	int fd = PyTuple_GET_SIZE(args) ? PyObject_AsFileDescriptor(PyTuple_GET_ITEM(args, 0)) : -1;

	(void)module;
	if (rest && !PyErr_Occurred())
		result = receive_from(take_bytes, &fd, AT_ONCE, rest);
	Py_XDECREF(rest);
	return result;
}

static PyMethodDef methods[] = {
	{ "receive", receive, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, .m_name = "receiver", .m_size = 0, .m_methods = methods };

PyMODINIT_FUNC PyInit_receiver(void)
{
	return PyModule_Create(&module);
}
