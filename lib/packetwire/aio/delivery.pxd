cimport cython
from packetwire.aio.answering cimport Answering
from packetwire.aio.calls cimport Calls
from packetwire.aio.writing cimport Writing
from packetwire.core.engine cimport ConnectionEngine

cdef class Delivery:
    cdef public object last_packet, events, agreed
    cdef ConnectionEngine _engine
    cdef Answering _answering
    cdef Calls _calls
    cdef Writing _writing
    cdef object _name, _attached, _receivers, _watchers, _on_event, _trace, _ended, _changed, _decoded
    cdef bint _is_watched
    @cython.locals(engine=ConnectionEngine, writing=Writing, answering=Answering, calls=Calls, waiting=Py_ssize_t,
                   events=list)
    cpdef receive(self, data)
