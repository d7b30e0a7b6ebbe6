from packetwire.hosts.threads.writing cimport Writing

cdef class Clock:
    cdef public bint is_idle, is_starting
    cdef public object thread
    cdef Writing _writing
    cdef object _name, _stream, _look, _wanted, _started, _failed, _wakeup, _poll
    cdef list _unstarted
    cdef public bint _stopping
    cpdef wake(self)
    cpdef begin(self)
