cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.answering cimport Answering
from packetwire.hosts.threads.clock cimport Clock
from packetwire.hosts.threads.writing cimport Writing

cdef class Workers:
    cdef public object jobs, slow_jobs, slots, busy, on_watch, work, threads, starting
    cdef public Py_ssize_t begun, most_parked, parked, _alive
    cdef public long long free_until, write_at
    cdef public bint stopping
    cdef ConnectionEngine _engine
    cdef Writing _writing
    cdef Clock _clock
    cdef Answering _answering
    cdef object _slow, _name, _limit, _max_unsent, _held, _parking, _bell, _failures
    @cython.locals(engine=ConnectionEngine, writing=Writing, clock=Clock, kept=bint, answering=Answering, debts=list)
    cpdef bint serve(self, me) except -1
    cpdef bint run_jobs(self, me) except -1
    cpdef need_thread(self)
    cpdef call_thread(self)
    cpdef see_to_clock(self)
