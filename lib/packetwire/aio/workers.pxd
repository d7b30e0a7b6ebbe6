from packetwire.core.engine cimport ConnectionEngine

cdef class Workers:
    cdef public object jobs, turns
    cdef object _answering
    cdef ConnectionEngine _engine
    cdef object _handle, _limit, _name, _deliver, _delivered, _max_unsent, _calls, _lock, _done, _threads
    cdef object _in_handler
    cdef public object _loop
    cdef Py_ssize_t _done_bytes, _idle
    cdef bint _delivers_all, _loop_is_called, _stopping
    cpdef call(self)
    cdef _call_worker(self)
    cdef _next_job(self, this)
    cdef _run(self, this, request)
