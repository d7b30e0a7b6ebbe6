from packetwire.streams.ownership cimport Supplied
from packetwire.streams.systemcalls cimport SocketCalls

cdef class SocketReader:
    cdef int _fd
    cdef SocketCalls _calls
    cdef readonly object try_read, try_read_into
    cdef readonly bint is_network

cdef class SocketWriter:
    cdef int _fd
    cdef Supplied _supplied
    cdef SocketCalls _calls
    cdef bint _shutdown, _delays
    cdef readonly object try_write
