cimport cython
from packetwire.core.engine cimport ConnectionEngine

cdef class Answering:
    cdef ConnectionEngine _engine
    cdef public object attached
    cdef object _name, _handler, _function, _channels, _error_detail, _faults, _trace, _answered
    cdef dict _contexts, _cancelled
    cdef public object owed, bodies
    @cython.locals(wire_rq_type=cython.longlong, marks=dict, is_special=bint)
    cpdef run_handler(self, tuple request, me)
    cdef _answer_result(self, key, rq_type, called, result)
