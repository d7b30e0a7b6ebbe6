"""As packing.py, with the bytes of a packet made in one go."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy


cdef inline Py_ssize_t size_of(unsigned long long n) noexcept nogil:
    """The bytes of an integer: 7 bits in each."""
    cdef Py_ssize_t size = 1
    while n > 127:
        n >>= 7
        size += 1
    return size


cdef inline char* put(char* place, unsigned long long n, Py_ssize_t size) noexcept nogil:
    """Write an integer, high bits first; returns the place behind it."""
    cdef Py_ssize_t i
    for i in range(size - 1, -1, -1):
        place[i] = <char>(n & 127 | (0 if i == size - 1 else 128))
        n >>= 7
    return place + size


cpdef bytes packed(tag, bytes tail, bytes payload):
    """A packet; `tail` has the fields between its tag and its payload, see `packet.head_tail`."""
    cdef unsigned long long number = tag
    cdef Py_ssize_t tag_size = size_of(number)
    cdef Py_ssize_t tail_size = PyBytes_GET_SIZE(tail)
    cdef Py_ssize_t payload_size = PyBytes_GET_SIZE(payload)
    cdef Py_ssize_t size = tag_size + tail_size + payload_size
    cdef Py_ssize_t length_size = size_of(size)
    cdef bytes packet = PyBytes_FromStringAndSize(NULL, length_size + size)
    cdef char* place = put(PyBytes_AS_STRING(packet), size, length_size)
    place = put(place, number, tag_size)
    memcpy(place, PyBytes_AS_STRING(tail), tail_size)
    memcpy(place + tail_size, PyBytes_AS_STRING(payload), payload_size)
    return packet
