cimport cython
from packetwire.core.engine cimport ConnectionEngine
from packetwire.hosts.threads.clock cimport Clock
from packetwire.hosts.threads.delivery cimport Delivery
from packetwire.hosts.threads.inline cimport InlineHandlers
from packetwire.hosts.threads.readerrole cimport ReaderRole
from packetwire.hosts.threads.reading cimport Reading
from packetwire.hosts.threads.workers cimport Workers
from packetwire.hosts.threads.writing cimport Writing

cdef class Loops:
    cdef ConnectionEngine _engine
    cdef Writing _writing
    cdef Clock _clock
    cdef Workers _workers
    cdef Reading _reading
    cdef InlineHandlers _inline
    cdef Delivery _delivery
    cdef object _parking, _park, _closing, _last_look
    @cython.locals(workers=Workers, writing=Writing, reader=ReaderRole, look=tuple, last_look=tuple)
    cpdef bint look(self) except -1
    @cython.locals(workers=Workers, reading=Reading, inline=InlineHandlers)
    cpdef bint work(self, me) except -1
