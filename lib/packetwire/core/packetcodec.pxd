cimport cython

cdef class PacketReader:
    cdef public object max_packet_size, fault, needed, octets_decoded
    cdef public bint ended
    cdef public object _partial, _payload, _collected
    cdef public bint _is_skipping
    cdef public long long _limit
    @cython.locals(
        data=bytes, start=Py_ssize_t, body=Py_ssize_t, stop=Py_ssize_t, offset=Py_ssize_t, end=Py_ssize_t,
        size=cython.longlong, limit=cython.longlong, tag=cython.long, octet=cython.long, wire_flags=cython.long,
        rq_type=cython.long, packets=list,
    )
    cpdef list feed(self, octets)
