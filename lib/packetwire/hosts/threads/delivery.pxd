from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.answering cimport Answering

cdef class Delivery:
    cdef public object all_received, taken, receivers, request
    cdef public bint is_watched
    cdef list _at_the_end
    cdef ConnectionEngine _engine
    cdef Answering _answering
    cdef object _name, _attached, _bell, _jobs, _inline_jobs, _inline, _on_event, _trace, _interrupt
