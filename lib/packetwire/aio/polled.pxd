cdef class PolledTransport:
    cdef public object stream
    cdef object _name, _loop, _rest, _receiver, _receive, _reason, _size
    cdef _Watch _to_read, _to_write
    cdef bint _may_wait, _reading, _forked
    cpdef _readable(self)
    cdef _read(self)

cdef class _Watch:
    cdef object _loop, _fd, _callback, _add, _remove, _again, _look, _errors
