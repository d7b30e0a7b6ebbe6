cdef class HandlerRun:
    cdef CoroutineHandlers _handlers
    cdef object _key, _rq_type, _coroutine, _context, _awaited
    cdef bint _is_new
    cdef public object references
    cdef public object task
    cdef lend_to(self, key, rq_type, coroutine, context, awaited)
    cdef _end(self, error)

cdef class CoroutineHandlers:
    cdef public object finish
    cdef public Py_ssize_t begun
    cdef object _loop, _server
    cdef dict _runs
    cdef bint _is_stepping
    cdef HandlerRun _lent
    cpdef begin(self, key, rq_type, coroutine, bint can_step)
    cdef _start_task(self, key, rq_type, coroutine)
    cdef _start_eager_task(self, key, rq_type, coroutine)
    cdef _step(self, key, rq_type, coroutine)
    cpdef raise_soon(self, error)
    cdef HandlerRun _lend(self)
    cdef take_back(self, HandlerRun run)
    cdef forget(self, HandlerRun run, key)
