cimport cython
from packetwire.core.engine cimport ConnectionEngine

cdef class Writing:
    cdef public object role, leftover
    cdef public object keeper
    cdef public Py_ssize_t flushes
    cdef ConnectionEngine _engine
    cdef object _write_batch, _waiting, _wait_for_room, _written, _failed, _interrupted
    cdef list _held
    cpdef flush(self, keeper=*)
    cdef bint _write(self, keeper) except -1
    cdef _keep(self, rest, keeper)
