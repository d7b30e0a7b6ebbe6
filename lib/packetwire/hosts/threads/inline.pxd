cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.answering cimport Answering
from packetwire.hosts.threads.clock cimport Clock
from packetwire.hosts.threads.role cimport Role
from packetwire.hosts.threads.workers cimport Workers
from packetwire.hosts.threads.writing cimport Writing

cdef class InlineHandlers:
    cdef public Role turn
    cdef public object jobs
    cdef ConnectionEngine _engine
    cdef Workers _workers
    cdef Writing _writing
    cdef Clock _clock
    cdef Answering _answering
    @cython.locals(workers=Workers, kept=bint)
    cpdef bint serve(self, me) except -1
    @cython.locals(workers=Workers, engine=ConnectionEngine, clock=Clock, served=bint, answering=Answering)
    cpdef bint run(self, me) except -1
