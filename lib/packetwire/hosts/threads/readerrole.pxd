cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.clock cimport Clock
from packetwire.hosts.threads.role cimport Role

cdef class ReaderRole:
    cdef public Role role
    cdef public bint is_armed, is_eager
    cdef public list sleepers
    cdef public Py_ssize_t left
    cdef ConnectionEngine _engine
    cdef Clock _clock
    cdef public object disarm_descriptor, lose
    cdef object _arm, _receivers, _bell, _locks
    cpdef leave(self, me, bint to_callers=*)
    cpdef arm(self)
    cpdef disarm(self)
    cpdef bint is_left_alone(self) except -1
