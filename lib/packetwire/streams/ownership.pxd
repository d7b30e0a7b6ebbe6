from packetwire.streams.systemcalls cimport is_that_file

cdef class Supplied:
    cdef int _fd
    cdef object _owner, _identity, _number
    cdef unsigned long long _device, _inode
    cdef double _read_at
    cdef public object number
    cpdef before_write(self)
    cpdef before_read(self)
    cpdef check(self)
