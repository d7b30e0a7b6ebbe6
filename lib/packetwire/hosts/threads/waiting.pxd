cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.delivery cimport Delivery
from packetwire.hosts.threads.readerrole cimport ReaderRole
from packetwire.hosts.threads.reading cimport Reading
from packetwire.hosts.threads.role cimport Role
from packetwire.hosts.threads.waiter cimport Waiter
from packetwire.hosts.threads.workers cimport Workers
from packetwire.hosts.threads.writing cimport Writing

cdef class Waiting:
    cdef ConnectionEngine _engine
    cdef Reading _reading
    cdef ReaderRole _reader
    cdef Delivery _delivery
    cdef Writing _writing
    cdef Workers _workers
    cdef Role _role, _writer, _inline_turn
    cdef object _name, _bell, _max_unsent
    cpdef bint wait_for(self, Waiter waiter, deadline) except -1
    cdef bint _flush_and_wait(self, me, Waiter waiter, deadline) except -1
    @cython.locals(reader=ReaderRole, engine=ConnectionEngine, naps=cython.long)
    cpdef bint wait(self, me, Waiter waiter, deadline) except -1
    @cython.locals(reader=ReaderRole)
    cdef _sleep(self, Waiter waiter, left, naps)
    cpdef check_not_inside(self, me)
