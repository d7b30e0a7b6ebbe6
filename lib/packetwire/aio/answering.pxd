cimport cython
from packetwire.aio.coroutines cimport CoroutineHandlers
from packetwire.aio.workers cimport Workers
from packetwire.aio.writing cimport Writing
from packetwire.core.engine cimport ConnectionEngine

cdef class Answering:
    cdef public object jobs, attached, request
    cdef public bint is_due
    cdef public Workers workers
    cdef ConnectionEngine _engine
    cdef Writing _writing
    cdef CoroutineHandlers _coroutines
    cdef object _name, _handler, _function, _channels, _inline, _error_detail, _faults, _trace
    cdef Py_ssize_t _max_unsent, _write_at
    cdef object _answered, _settled, _loop, _thread, _taken, _inline_channels
    cdef public object owed, bodies
    cdef dict _contexts, _cancelled
    cdef bint _is_serving, _is_stopping, _runs_inline, _can_step
    @cython.locals(workers=Workers)
    cpdef begin(self)
    @cython.locals(engine=ConnectionEngine, coroutines=CoroutineHandlers, left=Py_ssize_t)
    cdef _serve(self)
    @cython.locals(request=tuple, wire_rq_type=cython.longlong)
    cdef _run_handler(self, request, handler)
    cdef _answer_bytes(self, key, rq_type, payload)
    cdef _settle(self, key, rq_type, result)
