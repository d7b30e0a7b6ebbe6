cimport cython
from packetwire.aio.writing cimport Writing
from packetwire.core.engine cimport ConnectionEngine

cdef class Calls:
    cdef public object waiting, loop
    cdef public bint ends_requests, ends
    cdef ConnectionEngine _engine
    cdef Writing _writing
    cdef object _name, _waiting_bytes, _small_waiting, _trace, _changed
    cdef Py_ssize_t _max_outstanding, _max_unsent
    @cython.locals(engine=ConnectionEngine)
    cpdef ask(self, waiter, rq_type, flags, payload, channel)
    cpdef submit(self, rq_type, flags, payload, channel, decode_response, bint bounded)
    cpdef begin(self, request, rq_type, flags, payload, bint bounded)
