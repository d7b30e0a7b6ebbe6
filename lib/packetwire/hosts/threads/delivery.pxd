from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.answering cimport Answering

cdef class Delivery:
    cdef public object all_received, taken, receivers, unhurried, request, agreed
    cdef public bint is_watched, by_caller, postponed
    cdef list _at_the_end
    cdef ConnectionEngine _engine
    cdef Answering _answering
    cdef object _name, _attached, _bell, _jobs, _inline_jobs, _inline, _on_event, _trace, _interrupt, _cancel, _run_job
