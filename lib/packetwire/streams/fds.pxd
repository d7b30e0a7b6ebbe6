from packetwire.streams.ownership cimport Supplied
from packetwire.streams.systemcalls cimport DescriptorCalls

cdef class FdReader:
    cdef int _fd
    cdef Supplied _supplied
    cdef DescriptorCalls _calls
    cdef bint _owned, _nowait
    cpdef try_read(self, size)
    cpdef try_read_into(self, buffer)
    cdef _read_nowait(self, size)

cdef class FdWriter:
    cdef int _fd
    cdef Supplied _supplied
    cdef DescriptorCalls _calls
    cdef bint _owned, _nowait
    cpdef try_write(self, buffers)
    cpdef _try_write(self, buffers)
    cdef _write_nowait(self, buffers)
