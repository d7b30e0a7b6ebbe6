"""As payloads.py: the `bytes` object is made first, and filled in place. Nobody else has it until it is complete."""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

BEGIN_WITH = 1 << 16
AT_ONCE = 1 << 20


cdef class Payload:
    def __init__(self, Py_ssize_t size, bytes begun):
        self.size = size
        self.filled = PyBytes_GET_SIZE(begun)
        self.room = min(size, max(<Py_ssize_t>BEGIN_WITH, self.filled))
        self.data = PyBytes_FromStringAndSize(NULL, self.room)
        memcpy(PyBytes_AS_STRING(self.data), PyBytes_AS_STRING(begun), self.filled)

    cpdef add(self, bytes piece):
        cdef Py_ssize_t count = PyBytes_GET_SIZE(piece)
        if self.filled + count > self.room:
            self.grow(self.filled + count)
        memcpy(PyBytes_AS_STRING(self.data) + self.filled, PyBytes_AS_STRING(piece), count)
        self.filled += count

    cpdef place(self):
        if self.filled == self.room:
            self.grow(self.filled)
        return self

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, PyBytes_AS_STRING(self.data) + self.filled, self.room - self.filled, 0, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.views -= 1

    cpdef placed(self, Py_ssize_t count):
        if count > self.room - self.filled:
            raise ValueError("more than there is room for")
        self.filled += count

    cdef grow(self, Py_ssize_t end):
        if self.views:
            raise BufferError("it is being written to")
        cdef Py_ssize_t room = min(self.size, max(end, <Py_ssize_t>AT_ONCE, 2 * self.room))
        cdef bytes data = PyBytes_FromStringAndSize(NULL, room)
        memcpy(PyBytes_AS_STRING(data), PyBytes_AS_STRING(self.data), self.filled)
        self.data, self.room = data, room

    cpdef bytes collected(self):
        return self.data[: self.filled]

    cpdef bytes complete(self):
        if self.filled != self.size or self.views:
            raise BufferError("it is not complete")
        return self.data
