cimport cython
from packetwire.core.payloads cimport Payload

cdef class PacketReader:
    cdef public object max_packet_size, fault, needed, octets_decoded
    cdef public bint ended
    cdef public object _partial, _collected
    cdef public Payload _payload
    cdef public tuple _head
    cdef public bint _is_skipping
    cdef public long long _limit
    @cython.locals(
        data=bytes, start=Py_ssize_t, body=Py_ssize_t, stop=Py_ssize_t, offset=Py_ssize_t, end=Py_ssize_t,
        size=cython.longlong, limit=cython.longlong, tag=cython.long, byte=cython.long, wire_flags=cython.long,
        rq_type=cython.longlong, packets=list, packet=tuple, text="const unsigned char*",
    )
    cpdef list feed(self, piece)
    cpdef place(self)
    cpdef list placed(self, count)
    cdef tuple _long_packet(self, Payload payload)
