from packetwire.aio.workers cimport Workers
from packetwire.core.engine cimport ConnectionEngine

cdef class Writing:
    cdef public bint is_receiving, is_due, is_waiting
    cdef public Workers workers
    cdef ConnectionEngine _engine
    cdef Py_ssize_t _write_at
    cdef object _write, _call_soon, _settled
    cpdef added(self, Py_ssize_t under_way)
    cpdef flush_soon(self)
    cpdef flush(self)
    cdef _write_on(self, list batch)
