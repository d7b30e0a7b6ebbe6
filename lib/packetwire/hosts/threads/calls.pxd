cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.clock cimport Clock
from packetwire.hosts.threads.readerrole cimport ReaderRole
from packetwire.hosts.threads.reading cimport Reading
from packetwire.hosts.threads.role cimport Role
from packetwire.hosts.threads.waiter cimport RequestWaiter, Waiter
from packetwire.hosts.threads.waiting cimport Waiting
from packetwire.hosts.threads.writing cimport Writing

cdef class Calls:
    cdef ConnectionEngine _engine
    cdef Reading _reading
    cdef ReaderRole _reader
    cdef Writing _writing
    cdef Waiting _waiting
    cdef Clock _clock
    cdef Role _role, _writer
    cdef bint _is_watched
    cdef long long _max_unsent, _postpone_above, _write_at
    cdef object recover, _name, _unhurried, _bell, _trace, _disarm
    @cython.locals(engine=ConnectionEngine, reading=Reading, reader=ReaderRole, marks=dict)
    cpdef call(self, rq_type, flags, payload, channel, Waiter waiter, deadline)
    cpdef submit(self, RequestWaiter result, rq_type, flags, payload, channel, deadline, plan=*)
    @cython.locals(engine=ConnectionEngine, under_way=Py_ssize_t)
    cpdef request(self, rq_type, flags, payload, channel, Waiter waiter, deadline, plan=*)
