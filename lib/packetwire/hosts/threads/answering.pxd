cimport cython
from packetwire.core.engine cimport ConnectionEngine

cdef class Answering:
    cdef ConnectionEngine _engine
    cdef public object attached
    cdef object _name, _handler, _function, _channels, _error_detail, _faults, _trace, _answered
    @cython.locals(request=tuple, wire_rq_type=cython.longlong)
    cpdef run_handler(self, request)
    cdef _answer_result(self, key, rq_type, called, result)
