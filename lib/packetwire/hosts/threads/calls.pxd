cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.clock cimport Clock
from packetwire.hosts.threads.delivery cimport Delivery
from packetwire.hosts.threads.reading cimport Reading
from packetwire.hosts.threads.waiter cimport Waiter
from packetwire.hosts.threads.workers cimport Workers
from packetwire.hosts.threads.writing cimport Writing

cdef class Calls:
    cdef ConnectionEngine _engine
    cdef Reading _reading
    cdef Delivery _delivery
    cdef Writing _writing
    cdef Workers _workers
    cdef Clock _clock
    cdef bint _is_watched
    cdef object _name, _receivers, _role, _writer, _inline_turn, _arm, _disarm, _bell, _locks, _max_unsent, _trace
    @cython.locals(engine=ConnectionEngine, reading=Reading)
    cpdef call(self, rq_type, flags, payload, channel, Waiter waiter, deadline)
    @cython.locals(engine=ConnectionEngine, under_way=Py_ssize_t)
    cpdef request(self, rq_type, flags, payload, channel, Waiter waiter, deadline)
    cpdef bint wait_for(self, Waiter waiter, deadline) except -1
