cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.delivery cimport Delivery
from packetwire.hosts.threads.inline cimport InlineHandlers
from packetwire.hosts.threads.readerrole cimport ReaderRole
from packetwire.hosts.threads.role cimport Role
from packetwire.hosts.threads.waiter cimport Waiter
from packetwire.hosts.threads.workers cimport Workers
from packetwire.hosts.threads.writing cimport Writing
from packetwire.streams.systemcalls cimport ReadPoll

cdef class Reading:
    cdef public Role role
    cdef public ReaderRole reader
    cdef public InlineHandlers inline
    cdef public object last_packet
    cdef public bint is_polling
    cdef object _decoded
    cdef ConnectionEngine _engine
    cdef Writing _writing
    cdef Workers _workers
    cdef Delivery _delivery
    cdef public object _stream, _try_read, _try_read_into, _name, _jobs, _inline_jobs, _bell, _locks, _receivers, _unhurried
    cdef bint _is_watched
    cdef ReadPoll _poll
    cdef object _failure, _failures, _read_fd, _wakeup, _poll_stream, _spin
    @cython.locals(engine=ConnectionEngine, poll=ReadPoll, naps=cython.long, found=cython.int)
    cpdef bint lead(self, Waiter waiter, deadline) except -1
    @cython.locals(engine=ConnectionEngine)
    cdef _read_on(self)
    @cython.locals(engine=ConnectionEngine)
    cpdef serve(self, me)
    @cython.locals(engine=ConnectionEngine, events=list)
    cpdef bint read(self) except -1
    cdef _read_in_place(self)
    cpdef take_in(self, data)
