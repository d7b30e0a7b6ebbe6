cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.role cimport Role

cdef class Writing:
    cdef public Role role
    cdef public object leftover
    cdef public object keeper
    cdef public Py_ssize_t flushes
    cdef ConnectionEngine _engine
    cdef object _write_batch, _waiting, _wait_for_room, _written, _failed, _interrupted
    cdef list _held
    @cython.locals(engine=ConnectionEngine, batch=list, marks=dict)
    cpdef flush(self, keeper=*)
    cdef _keep(self, rest, keeper)
